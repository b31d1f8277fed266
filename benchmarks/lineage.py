"""From one pass to Mask-Predict: who can agree with himself, in how many looks, and what it costs.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.lineage --out runs/lineage

Trains an autoregressive model, one-pass translation, a conditional masked language model, masked diffusion and
iterative refinement, all of one size, on tasks whose law is known (`tinydiff.data.phrasebook`): on their own targets,
on the modes that the autoregressive model finds, and on its samples. Then one pass on words in any order, n = 2 .. 5,
against n!/n^n, and lengths. Writes results.json as it goes (given again, it goes on where it stopped; networks/ holds
what was trained), then table.md and lineage.png. Some minutes of one core.

Every source is translated the same number of times by a decoder that draws, and once by one that does not. `exact` is
the share of valid targets if the network knew the law it was trained on, `+-` two standard errors of the share that was
found. Time is wall clock for one sentence, the median over rounds in which all take turns; `--no-clock` leaves it to
another call, when nothing else runs.
"""

from __future__ import annotations

import argparse
import functools
import io
import math
import time
from collections.abc import Callable
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
from tinydiff.learning.files import write_atomically
from tinydiff.measures import translations as measures

from .hazards import Store

SIZE: dict[str, Any] = {"d_model": 32, "layers": 2, "heads": 4, "positions": "learned"}
DRAWN = Draw(temperature=1.0)
TEXTS = 4000  # translations by a decoder that draws
ROUNDS = 15  # of the clock
TASKS = {
    "one phrase": phrasebook.phrasebook(1),
    "two phrases": phrasebook.phrasebook(2),
    "orders of 4": phrasebook.orders(4),
}


@dataclass(frozen=True)
class Way:
    """A trained model and how it writes.

    Attributes
    ----------
    model, data : names, for the table
    trained : process and network
    name : of the decoder, for the table
    decoder : a value

    """

    model: str
    data: str
    trained: tuple[Any, Any]
    name: str
    decoder: Any


def trained(data: Callable[[], Parallel], law: Translations, process: Any, steps: int, file: Path) -> tuple[Any, Any]:
    """The process and its network, with averaged weights: from the file, if it was trained before."""
    model = td.Transformer(law.codec.vocab_size, law.length, **SIZE, rng=np.random.default_rng(0))
    if not file.exists():
        options = td.Options(steps=steps, batch=64, lr=4e-3, warmup=50, evaluate_every=steps, ema=0.99)
        run = td.Run(data(), process, model, options)
        *_, _ = td.train(run)
        buffer = io.BytesIO()
        np.savez(buffer, **{name: p.data for name, p in run.averaged().params.items()})
        write_atomically(file, buffer.getvalue())
        print(file.stem, flush=True)
    with np.load(file) as kept:
        for name, p in model.params.items():
            p.data[...] = kept[name]
    return process, model


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


def ways_of(task: str, steps: int, folder: Path) -> list[Way]:
    """Every model trained on every kind of data, with the ways of writing that it has."""
    law, v = TASKS[task], TASKS[task].codec.vocab_size

    @functools.cache
    def data(name: str) -> Parallel:
        raw = examples.parallel(law)
        if name == "raw":
            return raw
        by = decoders.Beam(8) if name == "modes" else decoders.NextToken()
        return distilled(*left, raw, by, np.random.default_rng(2))

    def network(name: str, process: Any) -> tuple[Any, Any]:
        file = folder / f"{task}, {name}, {process.config['process']}, {steps}.npz".replace(", ", "-").replace(" ", "_")
        return trained(lambda: data(name), law, process, steps, file)

    left = network("raw", td.Autoregressive(v))
    ways = [
        Way("autoregressive", "raw", left, "draws", decoders.NextToken()),
        Way("autoregressive", "raw", left, "greedy", decoders.NextToken(Draw(0.0))),
        Way("autoregressive", "raw", left, "beam of 8", decoders.Beam(8)),
    ]
    for name in ("raw", "modes", "samples"):
        one = network(name, td.OnePass(v))
        ways += [
            Way("one pass", name, one, "likeliest words", decoders.AtOnce()),
            Way("one pass", name, one, "draws", decoders.AtOnce(DRAWN)),
        ]
        masked = network(name, td.CMLM(v))
        for passes in (1, 2, 3, 4, 6) if name == "raw" else (1, 2):
            ways.append(Way("CMLM", name, masked, f"Mask-Predict, kept {passes}", decoders.MaskPredict(passes)))
            if name == "raw" and passes > 1:
                fresh = decoders.MaskPredict(passes, "fresh")
                ways.append(Way("CMLM", name, masked, f"Mask-Predict, fresh {passes}", fresh))
        diffusion = network(name, td.MaskedDiffusion(v))
        for passes in (1, 2, 3, 4) if name == "raw" else (1, 4):
            if passes <= law.length - law.begin:
                if name == "raw":
                    once = decoders.LowConfidence(passes, Draw(0.0))
                    ways.append(Way("diffusion", name, diffusion, f"commits once {passes}", once))
                ways.append(Way("diffusion", name, diffusion, f"draws {passes}", decoders.Random(passes, DRAWN)))
        if name == "raw":
            remask = decoders.RemaskRescale(16, 0.5, DRAWN)
            ways.append(Way("diffusion", name, diffusion, "draws, masks again 16", remask))
            again = network(name, td.Refinement(v))
            ways.append(Way("refinement", name, again, "likeliest words", decoders.Refine(10)))
            ways.append(Way("refinement", name, again, "first pass draws", decoders.Refine(10, DRAWN)))
            ways.append(Way("one pass", name, ways[3].trained, "Mask-Predict, kept 2", decoders.MaskPredict(2)))
    return ways


def exact_share(law: Translations, way: Way) -> float | None:
    """Share of valid targets if the network knew the law that it was trained on; None where no list says it.

    Mask-Predict with fresh confidences asks about texts that the law does not have; masks that come back and
    refinement depend on more than the law.
    """
    decoder = way.decoder
    if way.data == "modes" or way.model == "autoregressive":
        return 1.0
    if isinstance(decoder, decoders.Random):
        return in_steps(law, decoder.steps)
    if isinstance(decoder, decoders.AtOnce) and draws(decoder):
        return exact.valid_at_once(law)
    fresh = getattr(decoder, "confidence", "kept") == "fresh"
    known = {"one pass": decoders.AtOnce, "CMLM": decoders.MaskPredict, "diffusion": decoders.LowConfidence}
    if fresh or not isinstance(decoder, known.get(way.model, ())):
        return None
    perfect = Way("", "", (td.MaskedDiffusion(law.codec.vocab_size), exact.ListedDenoiser(law)), "", decoder)
    return float(measures.valid_texts(law, translated(law, perfect, 1)[0]).mean())


def in_steps(law: Translations, steps: int) -> float:
    """Share of valid targets of `decoders.Random` with the best denoiser, by listing all draws of the first source.

    The sources are alike: what differs is how the words at each place are called, and the list calls them 0, 1, ...
    """
    mine = law.source == 0
    words = np.stack([np.unique(place, return_inverse=True)[1] for place in law.ids[mine, law.begin :].T], axis=1)
    v, n = int(words.max()) + 1, words.shape[1]
    p = np.zeros(v**n)
    p[exact.state_index(words, v)] = law.conditional[mine]
    quotas = np.diff(n * np.arange(steps + 1) // steps).tolist()
    return float(exact.unmask_law(td.MaskedDiffusion(v), exact.BayesDenoiser(p, v, n), quotas)[p > 0].sum())


def table(law: Translations, ways: list[Way], texts: int) -> list[dict[str, Any]]:
    """A row for each way."""
    rows = []
    for way in ways:
        ids, passes = translated(law, way, texts // len(law.sources))
        row: dict[str, Any] = {"model": way.model, "data": way.data, "decoder": way.name, "passes": passes}
        row |= {"exact": exact_share(law, way)} | measures.columns(law, ids)
        row["error"] = math.sqrt(row["valid"] * (1 - row["valid"]) / len(ids))
        row |= measures.bleu_chrf(law, ids[:: max(1, len(ids) // 1000)], np.random.default_rng(3))
        rows.append(row)
    return rows


def orders(steps: int, texts: int, folder: Path) -> list[dict[str, Any]]:
    """One pass on words in any order: drawn, against n!/n^n; TC against what its NLL is above H."""
    rows = []
    for n in range(2, 6):
        law = phrasebook.orders(n)
        file = folder / f"orders_of_{n}-raw-nat-{steps}.npz"
        one = functools.partial(examples.parallel, law)
        process, model = trained(one, law, td.OnePass(law.codec.vocab_size), steps, file)
        way = Way("one pass", "raw", (process, model), "", decoders.AtOnce(DRAWN))
        ids, _ = translated(law, way, 20 * texts // len(law.sources) // n)
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


def lengths(steps: int, texts: int, folder: Path) -> list[dict[str, Any]]:
    """Dates: what knowing the length is worth, exactly and for one pass trained with the length told half the time."""
    law = replace(phrasebook.dates(), told=0.5)
    v, counts = law.codec.vocab_size, tuple(law.count_ids.tolist())
    one, masked = (
        trained(lambda: examples.parallel(law), law, process, steps, folder / f"dates-raw-{name}-{steps}.npz")
        for name, process in (("nat", td.OnePass(v)), ("cmlm", td.CMLM(v)))
    )
    rows = []
    for name, model, decoder, known in (
        ("one pass, draws", one, decoders.AtOnce(DRAWN), "source"),
        ("one pass, likeliest words", one, decoders.AtOnce(), None),
        ("one pass, likeliest length", one, decoders.LengthBeam(law.fill_id, counts, 1, decoders.AtOnce()), None),
        ("one pass, 3 lengths", one, decoders.LengthBeam(law.fill_id, counts, 3, decoders.AtOnce()), None),
        ("CMLM, Mask-Predict 6", masked, decoders.MaskPredict(6), None),
        ("CMLM, 3 lengths, Mask-Predict 4", masked, decoders.LengthBeam(law.fill_id, counts, 3), None),
    ):
        ids, _ = translated(law, Way("", "", model, name, decoder), max(1, texts // 400))
        share = measures.valid_texts(law, ids).mean()
        rows.append({
            "way": name, "valid": float(share), "error": math.sqrt(share * (1 - share) / len(ids)),
            "exact": exact.valid_at_once(law, known) if known else None,
        })  # fmt: skip
    x0 = np.repeat(law.ids, max(1, texts // 2000), axis=0)
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
        "| model | data | decoder | passes | ms | exact | valid | TV | entropy | NLL | repeats | BLEU | one ref. "
        "| chrF |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['data']} | {r['decoder']} | {r['passes']} | {r['ms']:.2f} | {shown(r['exact'])} "
            f"| {r['valid']:.3f} +- {2 * r['error']:.3f}{' (!)' * misses(r)} | {r['tv']:.2f} | {r['entropy']:.2f} "
            f"| {r['nll']:.2f} "
            f"| {r['repeats']:.3f} | {r['bleu']:.0f} | {r['bleu1']:.0f} | {r['chrf']:.0f} |"
        )
    return "\n".join(lines)


SHORT = [
    ("one phrase", "one pass", "raw", "likeliest words"), ("one phrase", "one pass", "raw", "draws"),
    ("one phrase", "one pass", "modes", "likeliest words"), ("one phrase", "CMLM", "raw", "Mask-Predict, kept 2"),
    ("two phrases", "autoregressive", "raw", "draws"), ("two phrases", "one pass", "raw", "likeliest words"),
    ("two phrases", "one pass", "raw", "draws"), ("two phrases", "one pass", "modes", "likeliest words"),
    ("two phrases", "one pass", "samples", "draws"), ("two phrases", "CMLM", "raw", "Mask-Predict, kept 2"),
    ("two phrases", "CMLM", "raw", "Mask-Predict, fresh 4"), ("two phrases", "refinement", "raw", "first pass draws"),
    ("two phrases", "diffusion", "raw", "draws 1"), ("two phrases", "diffusion", "raw", "draws 2"),
    ("two phrases", "diffusion", "raw", "draws 4"), ("two phrases", "one pass", "raw", "Mask-Predict, kept 2"),
    ("orders of 4", "CMLM", "raw", "Mask-Predict, kept 4"), ("orders of 4", "CMLM", "raw", "Mask-Predict, fresh 4"),
    ("orders of 4", "diffusion", "raw", "commits once 4"),
]  # fmt: skip
"""What benchmarks/README.md shows."""


def short(results: dict[str, Any]) -> list[str]:
    """The rows of benchmarks/README.md."""
    lines = []
    for task, *key in SHORT:
        place, row = next((i, r) for i, r in enumerate(results[task]) if [r["model"], r["data"], r["decoder"]] == key)
        error = f" ± {2 * row['error']:.3f}" if row["error"] else ""
        lines.append(
            f"| {task} | {row['model']} | {row['data']} | {row['decoder'].rstrip(' 0123456789')} "
            f"| {row['passes']} | {results[f'{task}, ms'][place]:.2f} | {shown(row['exact'])} "
            f"| {row['valid']:.3f}{error} | {row['tv']:.2f} |"
        )
    return lines


def shown(share: float | None) -> str:
    """An exact share, or nothing."""
    return "" if share is None else f"{share:.3f}"


def misses(row: dict[str, Any]) -> bool:
    """Whether a trained model is more than two standard errors away from the exact figure."""
    return row["exact"] is not None and abs(row["valid"] - row["exact"]) > 2 * row["error"] + 1e-12


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
    tasks = ["two phrases", "orders of 4"]
    drawing, axes = plt.subplots(1, len(tasks) + 1, figsize=(5 * (len(tasks) + 1), 4.2), layout="constrained")
    for axis, task, column in (*zip(axes, tasks, ["passes"] * 9, strict=False), (axes[-1], tasks[0], "ms")):
        rows = results[task]
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
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-clock", action="store_true")
    arguments = parser.parse_args()
    steps, texts, folder = arguments.steps, arguments.texts, arguments.out / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(arguments.out / "results.json")
    wanted = {"steps": steps, "texts": texts}
    if store.get("settings", lambda: wanted) != wanted:
        parser.error(f"{store.path} holds results of {store.found['settings']}; choose another --out")
    for task, law in TASKS.items():
        store.get(task, lambda task=task, law=law: table(law, ways_of(task, steps, folder), texts))
    store.get("orders", lambda: orders(steps, texts, folder))
    store.get("lengths", lambda: lengths(steps, texts, folder))
    if arguments.no_clock:
        return
    for task, law in TASKS.items():
        clock = functools.partial(milliseconds, law, rounds=arguments.rounds)
        store.get(f"{task}, ms", lambda task=task, clock=clock: clock(ways_of(task, steps, folder)))
        for row, ms in zip(store.found[task], store.found[f"{task}, ms"], strict=True):
            row["ms"] = ms
    lines = [line for task, law in TASKS.items() for line in (written(task, law, store.found[task]), "")]
    lines += [
        "| n words in any order | n!/n^n | one pass, drawn | repeats (1/n) | TC | NLL - H |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['n']} | {r['exact']:.4f} | {r['valid']:.4f} +- {2 * r['error']:.4f}{' (!)' * misses(r)} "
        f"| {r['repeats']:.3f} | {r['tc']:.3f} | {r['above']:.3f} |"
        for r in store.found["orders"]
    ]
    lines += ["", "| dates | exact | valid |", "|---|---|---|"]
    lines += [
        f"| {r['way']} | {shown(r['exact'])} | {r['valid']:.3f} +- {2 * r['error']:.3f}{' (!)' * misses(r)} |"
        for r in store.found["lengths"]
    ]
    print("\n".join(lines))
    (arguments.out / "table.md").write_text("\n".join(lines) + "\n", "utf-8")
    figure(arguments.out / "lineage.png", store.found)


if __name__ == "__main__":
    main()
