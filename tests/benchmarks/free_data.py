"""Makes the manifest of the recordings that the wideband model is trained on, and says what is in it.

    python tests/benchmarks/free_data.py OUT.json                   # the permissive part: what is shipped
    python tests/benchmarks/free_data.py OUT.json --all-licences    # all of it, for comparison

Recordings are those of ../shared/data/free (its SOURCES.tsv says where each comes from), and the noises of data/. Whole
sources are held out, so that validation and scores are about other voices in other rooms at other microphones. The
licences of these sources (CC BY-SA, GPL) ask something of what is made from them. So the permissive part loses only one
voice by it, which is asterisk's.
"""

import argparse
import csv
import dataclasses
from pathlib import Path

from tasnet_np.corpus import layouts, manifest

DATA = Path(__file__).parents[2] / "data"
FREE = DATA / "../../shared/data/free"
PERMISSIVE = ("CC0", "CC-BY", "CC-BY-3.0", "CC-BY-4.0", "public domain", "Apache-2.0", "BSD-3-Clause")
HELD_OUT = {  # folder of a source -> part; the whole source, whatever the licence
    "speech/fillets": "validation", "speech/tuxpaint": "validation", "noise/opensfx": "validation",
    "speech/asterisk": "test", "speech/ktuberling": "test", "noise/lincity-ng": "test", "noise/bucklespring": "test",
}  # fmt: skip


def source_of(path):
    """The source of a recording: speech/fillets for speech/fillets_big/001.flac, noise/esc10 for noise/esc10/1.flac."""
    kind, folder = Path(path).parts[:2]
    return f"{kind}/{folder.split('_')[0]}"


def recordings(free, all_licences=False):
    """The manifest of a folder like ../shared/data/free, and of the noises of data/."""
    with open(free / "SOURCES.tsv", encoding="utf-8", newline="") as file:
        licences = {row["path"]: row["licence"] for row in csv.DictReader(file, delimiter="\t")}
    found, problems = layouts.folders(free / "speech", free / "noise")
    made = manifest.make_manifest(found, problems)
    kept = []
    for entry in made.entries:
        path = f"{entry.kind}/{entry.path}"
        part = HELD_OUT.get(source_of(path), "training")
        if part != "training" or all_licences or licences[path] in PERMISSIVE:
            kept.append(dataclasses.replace(entry, part=part))
    made_up, entries, _ = manifest.inspect(layouts.folders(None, DATA / "noise")[0])
    kept += [dataclasses.replace(entry, folder=len(made.folders), part="training") for entry in entries]
    return dataclasses.replace(made, folders=made.folders + made_up, entries=kept)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--free", type=Path, default=FREE, help="folder with speech, noise and SOURCES.tsv")
    parser.add_argument("--all-licences", action="store_true")
    options = parser.parse_args()
    made = recordings(options.free, options.all_licences)
    manifest.save(made, options.out)
    print(manifest.table(made))


if __name__ == "__main__":
    main()
