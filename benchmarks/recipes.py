"""The recipes of LLaDA, Dream and LLaDA-MoE at the size of a laptop.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.recipes --out runs/recipes

- instructions: exact match on held-out prompts, masked diffusion against left to right; pairs alone against fine-tuning
- eos: how long answers are on canvases of 8, 16 and 32, for each cure of EOS overflow: where their length is open, and
  where the prompt says it
- dream: bits against steps from scratch and from an autoregressive run, three seeds; how left to right is forgotten
- experts: bits, loads by share of masks and milliseconds per step, at equal active parameters, three seeds

Writes results.json as it goes, and goes on where it stopped; then table.md and recipes.png. About ten minutes of one
core. `--scale 0.1` trains a tenth of the steps, to see that it runs; `--only` picks parts.

`+-` is one standard error: of the share of right answers, or over seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import tinydiff as td
from tinydiff import data, decoders
from tinydiff.learning import evaluate
from tinydiff.learning.from_autoregressive import Shifted, annealed, in_blocks
from tinydiff.measures import answers

SEEDS = (0, 1, 2)
QUESTIONS = 500
MUON: dict[str, Any] = {"optimiser": "muon", "lr": 6e-3, "warmup": 50}


def network(vocab: int, length: int, seed: int, **options: Any) -> td.Transformer:
    """The network of all that follows, but for its depth and its experts."""
    size = {"d_model": 64, "layers": 2, "heads": 4} | options
    return td.Transformer(vocab, length, **size, rng=np.random.default_rng(seed))


def trained(corpus: Any, process: Any, model: Any, steps: int, *, seed: int = 0, batch: int = 64, **more: Any) -> Any:
    """The averaged weights after that many steps."""
    options = td.Options(
        steps=steps, batch=batch, seed=seed, evaluate_every=steps, evaluate_windows=64, **MUON | more
    )  # fmt: skip
    run = td.Run(corpus, process, model, options)
    for _ in td.train(run):
        pass
    return run.averaged()


def masked(vocab: int) -> td.MaskedDiffusion:
    """Masked diffusion that draws numbers of masks."""
    return td.MaskedDiffusion(vocab, estimator="count")


# --- instructions -----------------------------------------------------------------------------------------------------


def questions(corpus: data.Pairs, many: int) -> list[tuple[str, str]]:
    """Held-out pairs."""
    return list(corpus.pairs[int(0.9 * len(corpus.pairs)) :][:many])


def by_task(asked: list[tuple[str, str]], written: list[str]) -> dict[str, Any]:
    """Exact match in all and of each task."""
    found: dict[str, Any] = {"all": answers.exact_match(written, [answer for _, answer in asked])}
    for task in data.instructions.TASKS:
        at = [i for i, (prompt, _) in enumerate(asked) if prompt.startswith(task)]
        found[task] = answers.exact_match([written[i] for i in at], [asked[i][1] for i in at])
    return found


def instructions(kind: str, seed: int, steps: int) -> dict[str, Any]:
    """Exact match of a model trained so: "masked", "autoregressive", "pairs alone" or "fine-tuned" on a few pairs.

    Masked diffusion draws numbers of masks, as `tinydiff train` does; "masked, times" draws times: the same loss with
    more noise.
    """
    corpus, length, start = data.load("instructions"), 28, None
    process: Any = masked(corpus.vocab_size)
    if kind == "autoregressive":
        process = td.Autoregressive(corpus.vocab_size)
    elif kind == "masked, times":
        process = td.MaskedDiffusion(corpus.vocab_size)
    model: Any = network(corpus.vocab_size, length, seed, layers=3)
    if kind in ("pairs alone", "fine-tuned"):
        steps //= 3
    if kind == "fine-tuned":  # the prompts and answers as text without ends, the order of the questions gone
        text = "\n".join(f"{prompt}{answer}" for prompt, answer in corpus.pairs[: int(0.9 * len(corpus.pairs))])
        plain = data.Corpus("lines", text, data.Characters(corpus.codec.tokens and "".join(corpus.codec.tokens) + "\n"))
        wide = network(plain.vocab_size, length, seed, layers=3)
        start = trained(plain, masked(plain.vocab_size), wide, steps, seed=seed, random_lengths=0.01)
        for name, p in model.params.items():
            old, here = start.params[name].data, p.data
            if name == "embed":
                here[:-1], here[-1] = old[: len(here) - 1], old[-1]
            else:
                here[...] = old[..., : here.shape[-1]] if name.startswith("head") else old
    model = trained(corpus, process, model, steps, seed=seed)
    asked = questions(corpus, QUESTIONS)
    written = answers.answers(process, model, corpus.codec, [p for p, _ in asked], 8, rng=np.random.default_rng(0))
    return {"steps": steps, "match": by_task(asked, written)}


# --- EOS --------------------------------------------------------------------------------------------------------------

CANVASES = (8, 16, 32)
CURES: dict[str, dict[str, Any]] = {
    "none": {}, "never drawn": {"eos": "never"}, "committed last": {"eos": "last"}, "blocks of 4": {"block": 4},
    "rainbow of 7": {"rainbow": 7}, "drawn, not greedy": {"drawn": True},
}  # fmt: skip
WRITTEN = 500


def open_words(rainbow: int) -> data.Pairs:
    """Answers whose length nobody can know: one to five letters, a or b, all lengths and letters as likely."""
    rng = np.random.default_rng(0)
    pairs = tuple(("say>", "".join(rng.choice(["a", "b"], rng.integers(1, 6)))) for _ in range(2000))
    codec = data.Characters.of("say>ab" + data.RAINBOW[:rainbow], eos=True)
    return data.Pairs("words", pairs, codec, rainbow)


def copies(rainbow: int) -> data.Pairs:
    """Answers whose length the prompt says: those of copy and reverse."""
    every = data.instructions.load(rainbow=rainbow)
    return data.Pairs("copies", tuple(p for p in every.pairs if p[0][:4] in ("copy", "reve")), every.codec, rainbow)


def overflow(corpus: data.Pairs, seed: int, steps: int) -> dict[str, Any]:
    """Mean length, its spread and exact match by canvas, for the cures that a model filled up so can have.

    One token a look, the surest first; "drawn, not greedy": at temperature 1, where the entropy is least.
    """
    process = masked(corpus.vocab_size)
    longest = max(len(prompt) for prompt, _ in corpus.pairs)
    size = {"layers": 1, "d_model": 32} if corpus.name == "words" else {"layers": 3}
    model = network(corpus.vocab_size, longest + max(CANVASES), seed, **size)
    model = trained(corpus, process, model, steps, seed=seed, batch=32, random_lengths=0.5)
    held_out, found = questions(corpus, 200), {}
    for cure, how in CURES.items():
        if how.get("rainbow", 0) != corpus.rainbow:
            continue
        drawn = how.get("drawn", False)
        asked = held_out if corpus.name == "copies" else held_out[:1] * (WRITTEN if drawn else 1)  # there is one prompt
        right = [answer for _, answer in asked]
        for canvas in CANVASES:
            decoder: Any = decoders.LowConfidence(draw=decoders.Draw(0.0), block_length=how.get("block"))
            if drawn:
                decoder = decoders.Entropy(draw=decoders.Draw(1.0))
            written = answers.answers(
                process, model, corpus.codec, [p for p, _ in asked], canvas, decoder=decoder,
                eos=how.get("eos", "free"), rng=np.random.default_rng(0),
            )  # fmt: skip
            found[f"{cure}/{canvas}"] = {
                "length": float(np.mean([len(text) for text in written])),
                "spread": float(np.std([len(text) for text in written])),
                "match": answers.exact_match(written, right),
            }
    return {"steps": steps, "true": float(np.mean([len(r) for _, r in corpus.pairs])), "rows": found}


# --- Dream ------------------------------------------------------------------------------------------------------------

LENGTH = 64
ARMS = ("scratch", "no shift", "shift", "shift, annealed", "shift, blocks", "shift, CART")


def autoregressive(corpus: Any, seed: int, steps: int) -> td.Transformer:
    """The network that arms start from, over START and a window."""
    model = network(corpus.vocab_size, LENGTH + 1, seed)
    return trained(corpus, td.Autoregressive(corpus.vocab_size), model, steps, seed=100 + seed, batch=32)


def arm(corpus: Any, left: td.Transformer, name: str, seed: int, steps: int) -> list[dict[str, float]]:
    """Bits per character at some steps, in any order and left to right; windows and masks are those of every arm."""
    v = corpus.vocab_size
    process: Any = td.CART(v) if name.endswith("CART") else td.MaskedDiffusion(v)
    model: Any = network(v, LENGTH, 10 + seed)
    if name == "no shift":
        for key, p in model.params.items():
            p.data[...] = left.params[key].data[: len(p.data)]
    elif name.startswith("shift"):
        copied = network(v, LENGTH + 1, 0)
        for key, p in copied.params.items():
            p.data[...] = left.params[key].data
        model = Shifted(copied)
    options = td.Options(steps=steps, batch=32, seed=seed, evaluate_every=steps, evaluate_windows=64, **MUON)
    run, rng, rows = td.Run(corpus, process, model, options), np.random.default_rng(1000 + seed), []
    at = {round(steps * share) for share in (0, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)}

    def look(step: int) -> None:
        mean = run.averaged()
        if isinstance(mean, Shifted):
            mean.mask, mean.causal = None, 0
        row = {"step": step, "bits": evaluate(mean, td.MaskedDiffusion(v), corpus, windows=256).mean}
        if isinstance(mean, Shifted):
            row["left"] = evaluate(mean.network, td.Autoregressive(v), corpus, windows=128, length=LENGTH).mean
        rows.append(row)

    look(0)
    opened = max(steps // 2, 1)  # attention is all open from here on

    def open_up(step: int) -> None:
        if name == "shift, annealed":
            model.mask = annealed(LENGTH, step / opened, rng)
        elif name == "shift, blocks":
            model.causal = in_blocks(LENGTH, step / opened)

    open_up(0)
    for frame in td.train(run):
        open_up(frame.step)
        if frame.step in at:
            look(frame.step)
    return rows


def dream(seed: int, steps: int, before: int) -> dict[str, Any]:
    """All arms of one seed."""
    corpus = data.load("python_docs")
    left = autoregressive(corpus, seed, before)
    found = {name: arm(corpus, left, name, seed, steps) for name in ARMS}
    return {"steps": steps, "before": before, "arms": found}


def reached(rows: list[dict[str, float]], bits: float) -> float:
    """The step at which a curve first is as low, between two looks along a line; nan if it never is."""
    if rows[0]["bits"] <= bits:
        return 0.0
    for a, b in pairwise(rows):
        if b["bits"] <= bits:
            return a["step"] + (b["step"] - a["step"]) * (a["bits"] - bits) / (a["bits"] - b["bits"])
    return float("nan")


# --- experts ----------------------------------------------------------------------------------------------------------

MIXTURES: dict[str, dict[str, Any]] = {
    "dense": {}, "4 experts, tokens choose 1": {"experts": 4},
    "4 experts, tokens choose 2": {"experts": 4, "active": 2},
    "4 experts choose tokens": {"experts": 4, "routing": "expert"},
}  # fmt: skip
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def mixture(name: str, seed: int, steps: int) -> dict[str, Any]:
    """Bits, and the entropy of the load over experts, in shares of log E, by share of masks."""
    corpus, how = data.load("python_docs"), MIXTURES[name]
    process = td.MaskedDiffusion(corpus.vocab_size)
    model = network(corpus.vocab_size, LENGTH, seed, **how)
    count = sum(p.data.size for p in model.params.values())
    model = trained(corpus, process, model, steps, seed=seed, batch=32)
    held = evaluate(model, process, corpus, windows=512)
    found: dict[str, Any] = {"steps": steps, "parameters": count, "bits": held.mean}
    if how:
        rng, x0 = np.random.default_rng(0), corpus.examples(LENGTH, 64, np.random.default_rng(1), held_out=True).x0
        entropies = []
        for ratio in RATIOS:
            routes: list[Any] = []
            xt = np.where(rng.random(x0.shape) < ratio, process.mask_id, x0)
            with td.no_grad():
                model(xt, routes=routes)
            loads = [route.sum(axis=(0, 1)) / route.sum() for route in routes]
            entropies.append([float(-(f[f > 0] * np.log(f[f > 0])).sum() / np.log(len(f))) for f in loads])
        found["entropy"] = np.mean(entropies, axis=1).tolist()
    return found


def clock(rounds: int) -> dict[str, Any]:
    """Milliseconds of a training step, the median over rounds in which all take turns, of the same batch."""
    corpus = data.load("python_docs")
    process, x0 = td.MaskedDiffusion(corpus.vocab_size), corpus.examples(LENGTH, 32, np.random.default_rng(0)).x0
    models = {name: network(corpus.vocab_size, LENGTH, 0, **how) for name, how in MIXTURES.items()}
    optimisers = {name: td.Muon(model.params) for name, model in models.items()}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            process.loss(model, x0, np.random.default_rng(0)).backward()
            middle = time.perf_counter()
            optimisers[name].step(1e-4)
            spent[name].append((middle - start, time.perf_counter() - middle))
    return {name: (1e3 * np.median(each[2:], axis=0)).tolist() for name, each in spent.items()}


# --- all of it --------------------------------------------------------------------------------------------------------


def jobs(scale: float) -> dict[str, Callable[[], Any]]:
    """Every piece of work by name: what is in results.json is not done again."""

    def steps(n: int) -> int:
        return max(round(n * scale), 16)

    every: dict[str, Callable[[], Any]] = {"experts/clock": lambda: clock(max(round(25 * scale), 4))}
    for seed in SEEDS:  # what is most wanted first, and one seed of all before the second of any
        every[f"dream/{seed}"] = partial(dream, seed, steps(250), steps(400))
        if seed == 0:
            for rainbow in (0, 7):
                every[f"eos/copies/{rainbow}"] = partial(overflow, copies(rainbow), 0, steps(600))
            for kind in ("masked, times", "pairs alone", "fine-tuned"):
                every[f"instructions/{kind}/0"] = partial(instructions, kind, 0, steps(1400))
        for kind in ("masked", "autoregressive"):
            every[f"instructions/{kind}/{seed}"] = partial(instructions, kind, seed, steps(1400))
        for rainbow in (0, 7):
            every[f"eos/words/{rainbow}/{seed}"] = partial(overflow, open_words(rainbow), seed, steps(300))
        for name in MIXTURES:
            every[f"experts/{name}/{seed}"] = partial(mixture, name, seed, steps(150))
    return every


def mean_error(values: list[float]) -> str:
    """Mean +- standard error over seeds."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.3f} +- {error:.3f}"


def eos_rows(results: dict[str, Any], kind: str) -> dict[str, Any]:
    """By cure and canvas, from both models; means over seeds, and the error of the length."""
    found: dict[str, list[Any]] = {}
    for key in (key for key in results if key.startswith(f"eos/{kind}/")):
        for name, row in results[key]["rows"].items():
            found.setdefault(name, []).append(row)
    return {
        name: {
            "length": float(np.mean([row["length"] for row in rows])),
            "error": float(np.std([row["length"] for row in rows], ddof=1) / np.sqrt(len(rows)))
            if len(rows) > 1
            else 0,
            "spread": float(np.mean([row["spread"] for row in rows])),
            "match": float(np.mean([row["match"][0] for row in rows])),
        }
        for name, rows in found.items()
    }


def matches(results: dict[str, Any], kind: str) -> dict[str, tuple[float, float]]:
    """Shares of right answers by task: means over seeds and their errors, of one seed the error of a share."""
    runs = [results[key]["match"] for key in results if key.split("/")[:2] == ["instructions", kind]]
    if len(runs) == 1:
        return dict(runs[0])
    shares = {task: np.array([run[task][0] for run in runs]) for task in runs[0]}
    return {task: (float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x)))) for task, x in shares.items()}


def table(results: dict[str, Any]) -> str:
    """All that is there, as Markdown."""
    lines = []
    keys = [key for key in results if key.startswith("instructions/")]
    if keys:
        tasks = ["all", *data.instructions.TASKS]
        head = " | ".join(("seeds", "steps", *tasks))
        lines += ["Exact match, per cent", "", f"| | {head} |", "|---" * (len(tasks) + 3) + "|"]
        for kind in dict.fromkeys(key.split("/")[1] for key in keys):
            of = [key for key in keys if key.split("/")[1] == kind]
            row = " | ".join(f"{100 * m:.1f} +- {100 * e:.1f}" for m, e in matches(results, kind).values())
            lines.append(f"| {kind} | {len(of)} | {results[of[0]]['steps']} | {row} |")
    for kind in ("words", "copies"):
        rows = eos_rows(results, kind)
        if rows:
            true = next(results[key]["true"] for key in results if key.startswith(f"eos/{kind}/"))
            right = kind == "copies"  # of words of any length there is no right one
            head = " | ".join(f"{c}: length" + " | right" * right for c in CANVASES)
            lines += [
                "",
                f"Answers of `{kind}` by canvas; true ones have {true:.2f} characters",
                "",
                f"| cure | {head} |",
            ]
            lines.append("|---" * ((1 + right) * len(CANVASES) + 1) + "|")
            for cure in CURES:
                cells = [rows.get(f"{cure}/{c}") for c in CANVASES]
                text = " | ".join(
                    f"{r['length']:.2f} +- {r['error']:.2f}, spread {r['spread']:.2f}"
                    + f" | {100 * r['match']:.1f}" * right
                    if r
                    else " |" * right
                    for r in cells
                )
                lines.append(f"| {cure} | {text} |")
    seeds = [results[key] for key in results if key.startswith("dream/")]
    if seeds:
        steps, before = seeds[0]["steps"], seeds[0]["before"]
        lines += ["", f"Bits per character after {steps} steps, {len(seeds)} seeds, and steps to scratch's last bits "
                  f"({before} autoregressive steps before)", "",
                  "| arm | bits at once | bits | steps to scratch's | times fewer | with the steps before "
                  "| left to right, before and after |", "|---" * 7 + "|"]  # fmt: skip
        for name in ARMS:
            last = [s["arms"][name][-1]["bits"] for s in seeds]
            first = [s["arms"][name][0]["bits"] for s in seeds]
            need = [reached(s["arms"][name], s["arms"]["scratch"][-1]["bits"]) for s in seeds]
            left = [[s["arms"][name][i].get("left", np.nan) for s in seeds] for i in (0, -1)]
            lines.append(
                f"| {name} | {mean_error(first)} | {mean_error(last)} | {np.mean(need):.0f} "
                f"| {steps / np.mean(need):.1f} | {steps / (np.mean(need) + (0 if name == 'scratch' else before)):.2f} "
                f"| {np.mean(left[0]):.3f}, {np.mean(left[1]):.3f} |"
            )
    if any(key.startswith("experts/") for key in results):
        lines += ["", "Experts, equal active parameters", "",
                  "| | parameters | bits | ms forward and back | optimiser | over dense | load entropy at masks "
                  f"{', '.join(map(str, RATIOS))} |", "|---" * 7 + "|"]  # fmt: skip
        times = results.get("experts/clock")
        for name in MIXTURES:
            runs = [results[f"experts/{name}/{seed}"] for seed in SEEDS if f"experts/{name}/{seed}" in results]
            if runs and times:
                ms, dense = times[name], times["dense"]
                load = np.mean([r["entropy"] for r in runs], axis=0) if "entropy" in runs[0] else []
                lines.append(
                    f"| {name} | {runs[0]['parameters']:,} | {mean_error([r['bits'] for r in runs])} | {ms[0]:.1f} "
                    f"| {ms[1]:.1f} | {100 * (ms[0] / dense[0] - 1):+.0f} % | {', '.join(f'{x:.3f}' for x in load)} |"
                )
    return "\n".join(lines) + "\n"


COLOURS = ("#555555", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
MARKS = ("o", "X", "s", "^", "D", "P")


def figure(path: Path, results: dict[str, Any]) -> None:
    """Bits against steps; left to right forgotten; lengths against canvas; loads against masks."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 14, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.5})
    drawing, axes = plt.subplots(2, 2, figsize=(13, 10), layout="constrained")
    seeds = [results[key] for key in results if key.startswith("dream/")]
    for name, colour, mark in zip(ARMS, COLOURS, MARKS, strict=True) if seeds else ():
        steps = [row["step"] for row in seeds[0]["arms"][name]]
        for axis, what in ((axes[0, 0], "bits"), (axes[0, 1], "left")):
            if what in seeds[0]["arms"][name][0]:
                values = np.array([[row[what] for row in s["arms"][name]] for s in seeds])
                error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
                axis.errorbar(steps, values.mean(axis=0), error, color=colour, marker=mark, ms=8, label=name, capsize=3)
    axes[0, 0].set(
        title="From an autoregressive run", xlabel="steps of diffusion", ylabel="bits per character, any order"
    )
    axes[0, 0].set_ylim(top=5.5)
    axes[0, 0].legend(fontsize=12)
    axes[0, 1].set(title="What it forgets", xlabel="steps of diffusion", ylabel="bits per character, left to right")
    rows = eos_rows(results, "words")
    for i, (cure, colour, mark) in enumerate(zip(CURES, COLOURS, MARKS, strict=False)):
        there = [c for c in CANVASES if f"{cure}/{c}" in rows]
        at = np.array(there) * (1 + 0.02 * (i - 2))
        found, errors = ([rows[f"{cure}/{c}"][what] for c in there] for what in ("length", "error"))
        axes[1, 0].errorbar(at, found, errors, color=colour, marker=mark, ms=9, label=cure, capsize=3)
    axes[1, 0].axhline(3, color="#888888", linestyle=":", label="true mean")
    axes[1, 0].set_xscale("log", base=2)
    axes[1, 0].set_yscale("log", base=2)
    axes[1, 0].set_xticks(CANVASES, [str(c) for c in CANVASES])
    axes[1, 0].set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    axes[1, 0].set_ylim(0.85, 150)
    axes[1, 0].set(title="EOS overflow and its cures", xlabel="canvas, tokens", ylabel="letters of an answer")
    axes[1, 0].legend(fontsize=12, ncols=2, loc="upper left")
    for name, colour, mark in zip(list(MIXTURES)[1:], COLOURS[2:], MARKS[2:], strict=False):
        runs = [results[f"experts/{name}/{seed}"]["entropy"] for seed in SEEDS if f"experts/{name}/{seed}" in results]
        if runs:
            axes[1, 1].plot(RATIOS, np.mean(runs, axis=0), color=colour, marker=mark, ms=9, label=name)
    axes[1, 1].set(title="Load of the experts", xlabel="share of masks", ylabel="entropy / log E")
    axes[1, 1].set_ylim(0, 1.05)
    axes[1, 1].legend(fontsize=12, loc="lower left")
    drawing.savefig(path, dpi=80)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", default="", help="parts whose names begin so")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "results.json"
    kept = json.loads(file.read_text()) if file.exists() else {"scale": arguments.scale, "results": {}}
    if kept["scale"] != arguments.scale:
        parser.error(f"{file} is of --scale {kept['scale']}; choose another --out")
    for name, work in jobs(arguments.scale).items():
        if name.startswith(arguments.only) and name not in kept["results"]:
            start = time.process_time()
            kept["results"][name] = work()
            print(f"{name}: {time.process_time() - start:.0f} s", flush=True)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(kept, indent=1))
            part.replace(file)
    text = table(kept["results"])
    (arguments.out / "table.md").write_text(text)
    print(text)
    if jobs(arguments.scale).keys() <= kept["results"].keys():  # all of it
        figure(arguments.out / "recipes.png", kept["results"])


if __name__ == "__main__":
    main()
