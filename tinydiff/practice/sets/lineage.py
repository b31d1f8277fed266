"""Set 7: lineage, zoo and clock. Translation in one pass, its cures, and what lies between one token and all."""

from __future__ import annotations

import itertools
import math

from ..question import Choice, Function, Number, Option, Question, Series, Suspect, Trap

PHRASES = {("thank", "you"): 0.4, ("many", "thanks"): 0.3, ("best", "thanks"): 0.3}


def one_pass() -> dict[tuple[str, str], float]:
    """The product of the marginals: what a model writes that fills both places from one look."""
    places = [
        {word: sum(p for text, p in PHRASES.items() if text[i] == word) for word in {text[i] for text in PHRASES}}
        for i in range(2)
    ]
    return {(a, b): places[0][a] * places[1][b] for a in places[0] for b in places[1]}


# --- 7.5 --------------------------------------------------------------------------------------------------------------


def masked_again(N: int, T: int) -> list[int]:
    """How many positions Mask-Predict masks before each of its passes 1, 2, ..., T - 1, of N positions: a list.

    Pass 0 has everything masked. Before pass t the rest of a line from N at t = 0 to 0 at t = T is masked, rounded down
    (Ghazvininejad et al. 2019).
    """
    return [N * (T - t) // T for t in range(1, T)]


# --- 7.7 --------------------------------------------------------------------------------------------------------------


def block_orders(L: int, b: int) -> int:
    """Over how many orders of L positions block diffusion averages: those that finish blocks of b from left to right.

    b divides L.
    """
    return int(math.factorial(b) ** (L // b))


def orders_by_listing(L: int, b: int) -> int:
    """Every permutation, and whether it is one of them."""
    return sum(all(order[i] // b == i // b for i in range(L)) for order in itertools.permutations(range(L)))


# --- 7.9 --------------------------------------------------------------------------------------------------------------


def valid_orders(n: int) -> float:
    """n different words, all n! orders equally likely: the share of texts of one pass that have every word once.

    One pass draws each place from its marginal, on its own.
    """
    return float(math.factorial(n) / n**n)


def valid_by_listing(n: int) -> float:
    """Every text."""
    return sum(len(set(text)) == n for text in itertools.product(range(n), repeat=n)) / float(n**n)


def _largest_steps(share: float = 1.0) -> float:
    """256 calls of 0.25 ms against steps of 3.4 ms."""
    return math.floor(256 * 0.25 / 3.4 * share)


SET = Series(
    "7",
    "Lineage, zoo and clock",
    "lessons/06_non_autoregressive_translation.ipynb",
    (
        Question(
            "Thank thanks",
            "A phrase has three translations: thank you 0.4, many thanks 0.3, best thanks 0.3. A model draws both "
            "words in one "
            "pass, each from its marginal. Which share of what it writes is one of the three?",
            Number(
                lambda: sum(p for text, p in one_pass().items() if text in PHRASES),
                (
                    Trap(lambda: 0.0, "That is so if both take the likeliest word: thank thanks. Drawn, it is not."),
                    Trap(lambda: one_pass()["thank", "thanks"], 'This is the share of "thank thanks".'),
                    Trap(lambda: 1 - one_pass()["thank", "thanks"], '"many you" and "best you" are wrong too.'),
                    Trap(lambda: 1 / 3, "The words are not equally likely."),
                ),
                unit="share",
            ),
            (
                "First words: thank 0.4, many 0.3, best 0.3. Second: you 0.4, thanks 0.6.",
                "0.4 x 0.4 + 0.3 x 0.6 + 0.3 x 0.6.",
            ),
            "Identity N4. This is the multimodality problem: each word is right, together they are not.",
            "lessons/06, section 3",
        ),
        Question(
            "What distillation costs",
            "The translations above are distilled: the teacher's likeliest one replaces them all, and the student "
            "learns it "
            "perfectly. How far is its law from the data's, in total variation?",
            Number(
                lambda: 1 - max(PHRASES.values()),
                (
                    Trap(lambda: 0.4, "This is what the two laws have in common."),
                    Trap(lambda: 0.0, "All is valid, but two of three translations are never written."),
                    Trap(
                        lambda: -math.log(0.4),
                        "This is the NLL of its output under the data's law: better than real "
                        "text, which shows that one number is not enough.",
                    ),
                    Trap(lambda: 1.2, "Half of the sum of the differences."),
                ),
            ),
            ("TV is half the sum of |p - q|.", "|0.4 - 1| + 0.3 + 0.3, halved."),
            "Identity N6: with one mode the total correlation is 0, so one pass suffices. What is paid is variety. "
            "Distilling samples in place of the mode changes nothing.",
            "lessons/06, section 5",
        ),
        Question(
            "Three ways to mask again",
            "Which statement about masks in decoding is right?",
            Choice(
                (
                    Option(
                        "Mask-Predict, LLaDA's remasking and ReMDM all mask committed tokens again.",
                        "LLaDA's does not: what it forgets was never committed.",
                    ),
                    Option(
                        "LLaDA forgets draws of the same step and never a committed token; Mask-Predict masks the "
                        "least "
                        "sure of all positions; ReMDM masks committed ones by chance, so that the marginals stay "
                        "right.",
                        "Right: three different decoders under one word.",
                        right=True,
                    ),
                    Option(
                        "Mask-Predict and ReMDM are the same, but for the schedule.",
                        "One goes by confidences kept from earlier passes, the other by chance, with an exact law of "
                        "the marginals.",
                    ),
                    Option("Only Mask-Predict ever masks again.", "ReMDM does so by design."),
                )
            ),
            ("Can a token that was committed in step 3 be gone in step 5?", "Ask it for each of the three."),
            "Identity N7: with stale confidences Mask-Predict evicts its own anchor, and never writes a valid "
            "permutation of "
            "three or more words.",
            "lessons/06, section 8, and lessons/05, section 8",
        ),
        Question(
            "Experts",
            "An MLP of 8 d^2 parameters is replaced by 8 experts of that size, of which a router picks 2 per token. "
            "How many "
            "times more parameters are stored than used per token, router aside?",
            Number(
                lambda: 8 / 2,
                (
                    Trap(lambda: 8.0, "Two experts work on each token."),
                    Trap(lambda: 2.0, "This is how much more work a token costs than in the dense layer."),
                    Trap(lambda: 16.0, "Stored over used, 8 over 2."),
                ),
            ),
            ("Stored: 8 x 8 d^2. Used: 2 x 8 d^2.",),
            "Work follows what is used, memory what is stored.",
            "lessons/07a, section 7",
        ),
        Question(
            "Mask-Predict's quotas",
            "Write how many positions Mask-Predict masks again before each pass.",
            Function(
                masked_again,
                lambda rng: [(2, 2), (4, 2), (7, 3), (10, 4), (5, 9), (32, 10)],
                (
                    Suspect(
                        lambda N, T: [math.ceil(N * (T - t) / T) for t in range(1, T)],
                        "Rounded up; it is rounded down.",
                    ),
                    Suspect(
                        lambda N, T: [N * t // T for t in range(1, T)], "These grow: this many are kept, not masked."
                    ),
                    Suspect(
                        lambda N, T: [N * (T - t) // T for t in range(T)],
                        "Pass 0 is in the list too: it is not asked for.",
                    ),
                    Suspect(
                        lambda N, T: [N * (T - t) // T for t in range(1, T + 1)], "There is no pass T: 1 to T - 1."
                    ),
                    Suspect(
                        lambda N, T: [max(1, N * (T - t) // T) for t in range(1, T)],
                        "That is what the published code "
                        "does for T > N, at least one; the formula of the paper is asked for.",
                    ),
                ),
            ),
            ("n_t = floor(N (T - t) / T) for t = 1 .. T - 1.",),
            "The first pass predicts all, later ones mend ever fewer.",
            "lessons/06, section 7",
        ),
        Question(
            "Why no exact cache",
            "Why can full attention keep no exact cache of keys and values across the steps of diffusion?",
            Choice(
                (
                    Option(
                        "Because positions are filled in any order.", "The order would not matter if keys stood still."
                    ),
                    Option(
                        "Because a committed token changes the hidden states, and with them keys and values, of all "
                        "positions from the second layer on.",
                        "Right. Exact caches need positions that cannot see what changes: causal attention, or blocks "
                        "that "
                        "do not see later ones.",
                        right=True,
                    ),
                    Option("Because the cache would be too large.", "It has the size of the autoregressive one."),
                    Option("Because MASK has no key.", "It has one like any token."),
                )
            ),
            ("In layer 1, keys depend on the token alone. In layer 2?", "Who sees the token that was just committed?"),
            "Identity K7. Kept all the same, as an approximation, it changes the law: the total variation can be "
            "enumerated.",
            "lessons/07b, section 5",
        ),
        Question(
            "Between one token and all",
            "Block diffusion is the mean over the orders that finish blocks left to right. Derive how many those are.",
            Function(
                block_orders,
                lambda rng: [(1, 1), (4, 1), (4, 2), (4, 4), (6, 2), (6, 3), (7, 7)],
                (
                    Suspect(lambda L, b: math.factorial(L), "These are all orders: one block, b = L."),
                    Suspect(
                        lambda L, b: math.factorial(b),
                        "This is one block's; each of the L / b blocks has its own order.",
                    ),
                    Suspect(
                        lambda L, b: math.factorial(b) * (L // b),
                        "The orders of different blocks combine freely: a "
                        "power, not a product with the number of blocks.",
                    ),
                    Suspect(
                        lambda L, b: math.factorial(L // b),
                        "The blocks stand in one order, left to right; inside a block the order is free.",
                    ),
                    Suspect(
                        lambda L, b: math.factorial(b) ** (L // b) * math.factorial(L // b),
                        "The blocks themselves stand in one order only.",
                    ),
                ),
                oracle=orders_by_listing,
                derived=True,
            ),
            ("b = 1: one order, left to right. b = L: all L! of them.", "Each block on its own: b! orders."),
            "Identity B4: block length 1 is the autoregressive likelihood, L the masked NELBO (B1).",
            "lessons/07b, section 3",
        ),
        Question(
            "Starting from an autoregressive model",
            "A masked model is to start from autoregressive weights. What is the shift by one for?",
            Choice(
                (
                    Option("It makes room for MASK in the vocabulary.", "That is a row of the embedding, not a shift."),
                    Option(
                        "Position i of those weights predicts token i + 1. Read with the shift, the network says "
                        "about a "
                        "masked token what it has always said, from its left.",
                        "Right: with the shift and a causal mask it is the autoregressive model still, left to right.",
                        right=True,
                    ),
                    Option("It hides the future.", "The causal mask does."),
                    Option("It is only for rotary positions.", "The kind of positions does not matter."),
                )
            ),
            (
                "Which token does the head at position i predict after autoregressive training?",
                "And which one does a masked model ask it for?",
            ),
            "Identity R1. Without the shift the head has to unlearn first.",
            "lessons/07a, section 5",
        ),
        Question(
            "Orders in one pass",
            "Derive how often one pass writes a permutation when all n! orders are equally likely.",
            Function(
                valid_orders,
                lambda rng: [(n,) for n in (1, 2, 3, 4, 5)],
                (
                    Suspect(lambda n: n ** -float(n), "This is the probability of one text; there are n! valid ones."),
                    Suspect(
                        lambda n: 1 / math.factorial(n), "This is the law of the data. One pass does not draw from it."
                    ),
                    Suspect(lambda n: n ** (1.0 - n), "This is for n texts that differ in every place."),
                    Suspect(
                        lambda n: (1 - 1 / n) ** (n - 1),
                        "Two neighbours differ with 1 - 1/n; all must differ from all.",
                    ),
                ),
                oracle=valid_by_listing,
                derived=True,
            ),
            ("Each place has every word with 1 / n.", "n! valid texts, each with n^-n."),
            "Identity N3: 0.5, 0.22, 0.09, 0.04, ...: and TC = n log n - log n!.",
            "lessons/06, section 4",
        ),
        Question(
            "The crossing",
            "Left to right with a cache: 256 calls of 0.25 ms. A step of diffusion on all 256 positions: 3.4 ms. In "
            "how many "
            "steps at most is diffusion no slower?",
            Number(
                _largest_steps,
                (
                    Trap(lambda: _largest_steps() + 1, "19 x 3.4 is 64.6 ms, and left to right takes 64."),
                    Trap(lambda: 64 / 3.4, "Steps are whole, and 19 are too slow already: round down."),
                    Trap(lambda: 256 * 3.4 / 0.25, "The shorter call is left to right's."),
                    Trap(lambda: 256.0, "That would be so if all calls took the same time."),
                    Trap(
                        lambda: math.floor(3.4 / 0.25),
                        "This is how many calls of its rival a step costs. The rival makes 256 of them.",
                    ),
                ),
            ),
            ("256 x 0.25 = 64 ms.", "64 / 3.4, rounded down."),
            "On a GPU calls stay, work shrinks: the crossing moves towards more steps. In a batch of 64 work decides, "
            "and it "
            'moves towards few. The problem "clock" does the counting.',
            "lessons/05, section 9",
        ),
    ),
)
