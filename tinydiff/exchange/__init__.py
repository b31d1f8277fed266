"""Models carried over to the tools that the field uses, and back.

- `hugging_face`: a run as a folder that `transformers` loads, and such a folder as a run
- `modeling_tinydiff.py`: the network in PyTorch, which travels in that folder; nothing here imports it
- `nanogpt`: a character model of nanoGPT as an autoregressive run
"""
