"""`regraft recommend` on photographs: six networks of random weights and one trained, which has to be first.

Prints the ranking, and for each network how many images the engine was given: at most the sample, once. A
second call finds everything in the store.

usage: recommend.py [--sample N] [--data FOLDER] [--weights FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from rows import Profile, Row, Sheet, Side, add_json

SHARED = Path(__file__).resolve().parents[2] / "shared"
RANDOM = (
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_v2_b0",
    "resnet50_v2",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument(
        "--weights", type=Path, default=SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"
    )
    add_json(parser)
    options = parser.parse_args()
    for path in (options.data, options.weights):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    from regraft import recommend
    from regraft.features.extract import Features

    passes: list[int] = []
    made = Features.__init__

    def counting(self: Features, *arguments: object, **named: object) -> None:
        made(self, *arguments, **named)  # type: ignore[arg-type]
        passes.append(self.computed)

    Features.__init__ = counting  # type: ignore[method-assign,assignment]
    backbones, weights = [*RANDOM, "mobilenet_v2"], [*["random"] * len(RANDOM), str(options.weights)]
    took, most = {}, {}
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as store:
        for call in ("first", "again"):
            begun = time.monotonic()
            found = recommend(
                options.data, backbones=backbones, weights=weights, sample=options.sample, store=store
            )
            took[call], computed, passes[:] = time.monotonic() - begun, list(passes), []
            most[call] = max(computed)
            print(f"{call} call: {took[call]:.0f} s; images computed a network: {computed}")
    print(
        f"{'backbone':<20} {'weights':<8} {found.score_name:>6} {'LogME':>7} {'H-score':>8} {'images/s':>9}"
    )
    for each in found.ranked:
        kind = _kind(each.weights)
        numbers = f"{each.score:6.3f} {each.logme:7.3f} {each.h_score:8.2f} {each.images_per_second:9.0f}"
        print(f"{each.backbone:<20} {kind:<8} {numbers}")
    place = 1 + [each.weights != "random" for each in found.ranked].index(True)
    print(f"the trained one is first: {'yes' if place == 1 else 'NO'}")
    again = Side("a second call computes", "images", (float(most["again"]),))
    remark = f"a sample of {options.sample:,} photographs"
    rows = [
        Row("recommend: place of the trained network among seven", "", (float(place),), at_most=1),
        Row(
            "recommend: images computed, most of any network, over the sample",
            "passes",
            (most["first"] / options.sample,),
            at_most=1,
            sides=(again,),
            remark=remark,
        ),
        Row("recommend, first call", "s", (took["first"],), remark=remark),
        Row("recommend, everything stored", "s", (took["again"],), remark=remark),
    ]
    parts = {f"{each.backbone}, {_kind(each.weights)}": each.images_per_second for each in found.ranked}
    Sheet(rows, [Profile("recommend: rate of each network", "images/s", parts)]).write(options.json)


def _kind(weights: str) -> str:
    return "random" if weights == "random" else "trained"


if __name__ == "__main__":
    main()
