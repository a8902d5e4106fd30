"""Run `regraft recommend` on six networks with random weights and a trained one, which must be ranked first.

Prints the ranking, and for each network the number of images that the engine computed: at most the sample,
once. A second call finds everything in the store.

usage: recommend.py [--sample N] [--data FOLDER] [--weights FILE] [--json FILE]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from rows import IMAGES, MOBILENET, Profile, Row, Sheet, Side, are_present, make_parser

RANDOM = (
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_v2_b0",
    "resnet50_v2",
)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--weights", type=Path, default=MOBILENET)
    options = parser.parse_args()
    if not are_present(options.data, options.weights):
        return
    from regraft import recommend
    from regraft.features.extract import Features

    passes: list[int] = []
    initialise = Features.__init__

    def count(self: Features, *arguments: object, **options: object) -> None:
        initialise(self, *arguments, **options)  # type: ignore[arg-type]
        passes.append(self.computed)

    Features.__init__ = count  # type: ignore[method-assign,assignment]
    backbones, weights = [*RANDOM, "mobilenet_v2"], [*["random"] * len(RANDOM), str(options.weights)]
    seconds, most = {}, {}
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as store:
        for call in ("first", "again"):
            start = time.monotonic()
            recommendation = recommend(
                options.data, backbones=backbones, weights=weights, sample=options.sample, store=store
            )
            seconds[call], computed, passes[:] = time.monotonic() - start, list(passes), []
            most[call] = max(computed)
            print(f"{call} call: {seconds[call]:.0f} s; images computed for each network: {computed}")
    header = f"{'backbone':<20} {'weights':<8} {recommendation.score_name:>6}"
    print(f"{header} {'LogME':>7} {'H-score':>8} {'images/s':>9}")
    for row in recommendation.ranked:
        numbers = f"{row.score:6.3f} {row.logme:7.3f} {row.h_score:8.2f} {row.images_per_second:9.0f}"
        print(f"{row.backbone:<20} {_describe_weights(row.weights):<8} {numbers}")
    rank = 1 + [row.weights != "random" for row in recommendation.ranked].index(True)
    print(f"the trained network is ranked first: {'yes' if rank == 1 else 'NO'}")
    again = Side("a second call computes", "images", (float(most["again"]),))
    remark = f"a sample of {options.sample:,} images"
    rows = [
        Row("recommend: place of the trained network among seven", "", (float(rank),), at_most=1),
        Row(
            "recommend: images computed, most of any network, over the sample",
            "passes",
            (most["first"] / options.sample,),
            at_most=1,
            sides=(again,),
            remark=remark,
        ),
        Row("recommend, first call", "s", (seconds["first"],), remark=remark),
        Row("recommend, everything stored", "s", (seconds["again"],), remark=remark),
    ]
    parts = {
        f"{row.backbone}, {_describe_weights(row.weights)}": row.images_per_second
        for row in recommendation.ranked
    }
    Sheet(rows, [Profile("recommend: rate of each network", "images/s", parts)]).write(options.json)


def _describe_weights(weights: str) -> str:
    return "random" if weights == "random" else "trained"


if __name__ == "__main__":
    main()
