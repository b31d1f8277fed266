"""From one pass to Mask-Predict: who can agree with himself, in how many looks, and what it costs.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.lineage --out runs/lineage

Trains an autoregressive model, one-pass translation, a conditional masked language model, masked diffusion and
iterative refinement, all of one size, on tasks whose law is known (`tinydiff.data.phrasebook`): on their own targets,
on the modes that the autoregressive model finds, and on its samples. Then one pass on words in any order, n = 2 .. 5,
against n!/n^n, and lengths. Writes table.md, results.json and lineage.png. Some minutes of one core.

Every source is translated the same number of times by a decoder that draws, and once by one that does not. `+-` is two
standard errors of the share of valid targets. Time is wall clock for one sentence, the median over rounds in which all
take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import tinydiff as td
from tinydiff import decoders, exact
from tinydiff.arrays import Bools, Ints
from tinydiff.data import Parallel, Translations, examples, phrasebook
from tinydiff.decoders import Draw
from tinydiff.learning.distillation import distilled
from tinydiff.measures import translations as measures

SIZE: dict[str, Any] = {"d_model": 32, "layers": 2, "heads": 4, "positions": "learned"}
DRAWN = Draw(temperature=1.0)
COPIES = 250  # translations of each source
ROUNDS = 15  # of the clock


@dataclass(frozen=True)
class Way:
    """A trained model and how it writes.

    Attributes
    ----------
    model, data : names, for the table
    trained : process and network
    name : of the decoder, for the table
    decoder : a value
    passes : looks at the text, counted

    """

    model: str
    data: str
    trained: tuple[Any, Any]
    name: str
    decoder: Any


def trained(corpus: Parallel, process: Any, steps: int, seed: int = 0) -> tuple[Any, Any]:
    """The process and its network, with averaged weights."""
    model = td.Transformer(corpus.vocab_size, corpus.law.length, **SIZE, rng=np.random.default_rng(seed))
    options = td.Options(steps=steps, batch=64, lr=4e-3, warmup=50, evaluate_every=steps, ema=0.99, seed=seed)
    run = td.Run(corpus, process, model, options)
    *_, _ = td.train(run)
    return process, run.averaged()


def asked(law: Translations, copies: int) -> tuple[Ints, Bools]:
    """Every source that many times, and what is given."""
    x0 = np.full((len(law.sources), law.length), law.fill_id)
    x0[:, : law.begin] = law.sources
    return np.repeat(x0, copies, axis=0), law.given


def draws(decoder: Any) -> bool:
    """Whether two translations of a source may differ."""
    return getattr(decoder, "draw", Draw(0.0)).temperature > 0


def translated(law: Translations, way: Way, copies: int) -> tuple[Ints, int]:
    """What comes out, (n, L), and in how many passes."""
    process, model = way.trained
    x0, given = asked(law, copies if draws(way.decoder) else 1)
    rng = np.random.default_rng(1)
    frames = list(process.sample(model, law.length, len(x0), decoder=way.decoder, x0=x0, given=given, rng=rng))
    return frames[-1].state, len(frames) - 1


def milliseconds(law: Translations, ways: list[Way], rounds: int) -> list[float]:
    """Wall clock for one sentence, the median over rounds in which all ways take turns."""
    spent: list[list[float]] = [[] for _ in ways]
    x0, given = asked(law, 1)
    for round_ in range(rounds):
        for seconds, way in zip(spent, ways, strict=True):
            process, model = way.trained
            one = x0[round_ % len(x0)]
            start = time.perf_counter()
            for _ in process.sample(
                model, law.length, decoder=way.decoder, x0=one, given=given, rng=np.random.default_rng(0)
            ):
                pass
            seconds.append(time.perf_counter() - start)
    return [1e3 * float(np.median(each)) for each in spent]


def ways_of(law: Translations, steps: int) -> list[Way]:
    """Every model trained on every kind of data, with the ways of writing that it has."""
    corpus = examples.parallel(law)
    v = corpus.vocab_size
    left = trained(corpus, td.Autoregressive(v), steps)
    by_mode = distilled(*left, corpus, decoders.Beam(8))
    by_samples = distilled(*left, corpus, decoders.NextToken(), np.random.default_rng(2))
    ways = [
        Way("autoregressive", "raw", left, "draws", decoders.NextToken()),
        Way("autoregressive", "raw", left, "greedy", decoders.NextToken(Draw(0.0))),
        Way("autoregressive", "raw", left, "beam of 8", decoders.Beam(8)),
    ]
    for name, data in (("raw", corpus), ("modes", by_mode), ("samples", by_samples)):
        one = trained(data, td.OnePass(v), steps)
        ways += [
            Way("one pass", name, one, "likeliest words", decoders.AtOnce()),
            Way("one pass", name, one, "draws", decoders.AtOnce(DRAWN)),
        ]
        masked = trained(data, td.CMLM(v), steps)
        for passes in (1, 2, 3, 4, 6) if name == "raw" else (1, 2):
            ways.append(Way("CMLM", name, masked, f"Mask-Predict, kept {passes}", decoders.MaskPredict(passes)))
            if name == "raw" and passes > 1:
                fresh = decoders.MaskPredict(passes, "fresh")
                ways.append(Way("CMLM", name, masked, f"Mask-Predict, fresh {passes}", fresh))
        diffusion = trained(data, td.MaskedDiffusion(v), steps)
        for passes in (1, 2, 3, 4) if name == "raw" else (1, 4):
            if passes <= law.length - law.begin:
                if name == "raw":
                    once = decoders.LowConfidence(passes, Draw(0.0))
                    ways.append(Way("diffusion", name, diffusion, f"commits once {passes}", once))
                ways.append(Way("diffusion", name, diffusion, f"draws {passes}", decoders.Random(passes, DRAWN)))
        if name == "raw":
            remask = decoders.RemaskRescale(16, 0.5, DRAWN)
            ways.append(Way("diffusion", name, diffusion, "draws, masks again 16", remask))
            again = trained(data, td.Refinement(v), steps)
            ways.append(Way("refinement", name, again, "likeliest words", decoders.Refine(10)))
            ways.append(Way("refinement", name, again, "first pass draws", decoders.Refine(10, DRAWN)))
            ways.append(Way("one pass", name, ways[3].trained, "Mask-Predict, kept 2", decoders.MaskPredict(2)))
    return ways


def table(law: Translations, steps: int, copies: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each way."""
    ways, rows = ways_of(law, steps), []
    for way, ms in zip(ways, milliseconds(law, ways, rounds), strict=True):
        ids, passes = translated(law, way, copies)
        row: dict[str, Any] = {"model": way.model, "data": way.data, "decoder": way.name, "passes": passes, "ms": ms}
        row |= measures.columns(law, ids)
        row["error"] = math.sqrt(row["valid"] * (1 - row["valid"]) / len(ids))
        row |= measures.bleu_chrf(law, ids[:: max(1, len(ids) // 1000)], np.random.default_rng(3))
        rows.append(row)
    return rows


def orders(steps: int, copies: int) -> list[dict[str, Any]]:
    """One pass on words in any order: drawn, against n!/n^n; TC against what its NLL is above H."""
    rows = []
    for n in range(2, 6):
        law = phrasebook.orders(n)
        corpus = examples.parallel(law)
        process, model = trained(corpus, td.OnePass(corpus.vocab_size), steps)
        ids, _ = translated(law, Way("one pass", "raw", (process, model), "", decoders.AtOnce(DRAWN)), 40 * copies // n)
        given = np.tile(law.given, (len(law.ids), 1))
        nll = float(law.p @ process.bound(model, td.data.Batch(law.ids, given=given), np.random.default_rng(0)))
        share = measures.valid_texts(law, ids).mean()
        rows.append(
            {
                "n": n, "exact": exact.valid_at_once(law), "valid": float(share),
                "error": math.sqrt(share * (1 - share) / len(ids)), "repeats": measures.repeats(law, ids),
                "tc": exact.total_correlation(law), "above": nll - exact.target_entropy(law),
            }
        )  # fmt: skip
    return rows


def lengths(steps: int, copies: int) -> list[dict[str, Any]]:
    """Dates: what knowing the length is worth, exactly and for one pass trained with the length told half the time."""
    law = replace(phrasebook.dates(), told=0.5)
    corpus = examples.parallel(law)
    v, counts = corpus.vocab_size, tuple(law.count_ids.tolist())
    one, masked = trained(corpus, td.OnePass(v), steps), trained(corpus, td.CMLM(v), steps)
    rows = []
    for name, model, decoder, known in (
        ("one pass, draws", one, decoders.AtOnce(DRAWN), "source"),
        ("one pass, likeliest words", one, decoders.AtOnce(), None),
        ("one pass, likeliest length", one, decoders.LengthBeam(law.fill_id, counts, 1, decoders.AtOnce()), None),
        ("one pass, 3 lengths", one, decoders.LengthBeam(law.fill_id, counts, 3, decoders.AtOnce()), None),
        ("CMLM, Mask-Predict 6", masked, decoders.MaskPredict(6), None),
        ("CMLM, 3 lengths, Mask-Predict 4", masked, decoders.LengthBeam(law.fill_id, counts, 3), None),
    ):
        ids, _ = translated(law, Way("", "", model, name, decoder), max(1, copies // 25))
        share = measures.valid_texts(law, ids).mean()
        rows.append({
            "way": name, "valid": float(share), "error": math.sqrt(share * (1 - share) / len(ids)),
            "exact": exact.valid_at_once(law, known) if known else None,
        })  # fmt: skip
    x0 = np.repeat(law.ids, max(1, copies // 100), axis=0)
    given = law.known(x0, True)
    words = given[..., None] | (np.arange(v) != law.fill_id)
    *_, last = one[0].sample(
        one[1], law.length, len(x0), decoder=decoders.AtOnce(DRAWN), x0=x0, given=given, allowed=words,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    each = np.bincount(np.repeat(np.arange(len(law.p)), len(x0) // len(law.p)), measures.valid_texts(law, last.state))
    share = float(law.p @ each / (len(x0) // len(law.p)))
    rows.append({
        "way": "one pass, draws, length told", "valid": share, "error": math.sqrt(share * (1 - share) / len(x0)),
        "exact": exact.valid_at_once(law, "length"),
    })  # fmt: skip
    return rows


def written(task: str, law: Translations, rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    h, tc = exact.target_entropy(law), exact.total_correlation(law)
    at_once, away = exact.valid_at_once(law), exact.translation_distance(law, law.modes())
    lines = [
        f"{task}: H(Y|x) = {h:.3f}, TC(Y|x) = {tc:.3f} nats; drawn at once {at_once:.3f} are valid; the modes are "
        f"{away:.2f} away", "",
        "| model | data | decoder | passes | ms | valid | TV | entropy | NLL | repeats | BLEU | one ref. | chrF |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['data']} | {r['decoder']} | {r['passes']} | {r['ms']:.2f} "
            f"| {r['valid']:.3f} +- {2 * r['error']:.3f} | {r['tv']:.2f} | {r['entropy']:.2f} | {r['nll']:.2f} "
            f"| {r['repeats']:.3f} | {r['bleu']:.0f} | {r['bleu1']:.0f} | {r['chrf']:.0f} |"
        )
    return "\n".join(lines)


def figure(path: Path, results: dict[str, Any]) -> None:
    """Valid targets against passes, for each task; and against milliseconds."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.2})
    curves = {
        ("CMLM", "Mask-Predict, kept"): ("#0072B2", "o-"), ("CMLM", "Mask-Predict, fresh"): ("#56B4E9", "s--"),
        ("diffusion", "commits once"): ("#009E73", "D-"), ("diffusion", "draws"): ("#E69F00", "^-"),
    }  # fmt: skip
    points = {
        ("autoregressive", "raw", "greedy"): ("#555555", "*", "autoregressive"),
        ("one pass", "raw", "likeliest words"): ("#D55E00", "X", "one pass"),
        ("one pass", "modes", "likeliest words"): ("#CC79A7", "P", "one pass, distilled"),
    }
    tasks = list(results["tasks"])
    drawing, axes = plt.subplots(1, len(tasks) + 1, figsize=(5 * (len(tasks) + 1), 4.2), layout="constrained")
    for axis, task, column in (*zip(axes, tasks, ["passes"] * 9, strict=False), (axes[-1], tasks[0], "ms")):
        rows = results["tasks"][task]
        for shift, ((model, decoder), (colour, style)) in enumerate(curves.items()):
            mine = [
                r
                for r in rows
                if r["model"] == model and r["data"] == "raw" and r["decoder"].rpartition(" ")[0] == decoder
            ]
            at = np.array([r[column] for r in mine]) * (1 + 0.012 * (shift - 1.5) * (column == "passes"))
            axis.errorbar(
                at, [r["valid"] for r in mine], [2 * r["error"] for r in mine], fmt=style, color=colour, ms=8,
                label=f"{model}, {decoder}", capsize=3,
            )  # fmt: skip
        for r in rows:
            if (key := (r["model"], r["data"], r["decoder"])) in points:
                colour, marker, label = points[key]
                axis.plot(r[column], r["valid"], marker, color=colour, ms=14, label=label, zorder=5, ls="none")
        axis.set(ylim=(-0.05, 1.08), title=task if column == "passes" else f"{task}, on the clock")
        axis.set_xlabel("passes" if column == "passes" else "milliseconds for one sentence")
        if column == "ms":
            axis.set_xscale("log")
            axis.minorticks_off()
            axis.set_xticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    axes[0].set_ylabel("share of valid targets")
    axes[0].legend(fontsize=9, loc="center right", frameon=True)
    drawing.savefig(path, dpi=90)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/lineage"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--copies", type=int, default=COPIES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tasks = {"phrasebook": phrasebook.phrasebook(2), "orders of 4": phrasebook.orders(4)}
    results: dict[str, Any] = {"steps": arguments.steps, "tasks": {}}
    lines = []
    for task, law in tasks.items():
        rows = results["tasks"][task] = table(law, arguments.steps, arguments.copies, arguments.rounds)
        lines += [written(task, law, rows), ""]
        print(lines[-2], flush=True)
    results["orders"] = orders(arguments.steps, arguments.copies)
    lines += [
        "| n words in any order | n!/n^n | one pass, drawn | repeats (1/n) | TC | NLL - H |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['n']} | {r['exact']:.4f} | {r['valid']:.4f} +- {2 * r['error']:.4f} | {r['repeats']:.3f} "
        f"| {r['tc']:.3f} | {r['above']:.3f} |"
        for r in results["orders"]
    ]  # fmt: skip
    results["lengths"] = lengths(arguments.steps, arguments.copies)
    lines += ["", "| dates | exact | valid |", "|---|---|---|"]
    lines += [
        f"| {r['way']} | {'' if r['exact'] is None else format(r['exact'], '.3f')} "
        f"| {r['valid']:.3f} +- {2 * r['error']:.3f} |"
        for r in results["lengths"]
    ]
    print("\n".join(lines[-17:]))
    (arguments.out / "table.md").write_text("\n".join(lines) + "\n", "utf-8")
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    figure(arguments.out / "lineage.png", results)


if __name__ == "__main__":
    main()
