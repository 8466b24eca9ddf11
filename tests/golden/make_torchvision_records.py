"""Write ``weights/torchvision.json``: torchvision's records of its video networks, so that listing is fast.

    python tests/golden/make_torchvision_records.py

To be run again when torchvision adds a network or changes a file; `test_registry` compares the two.
"""

from __future__ import annotations

import json

from c3d_extract.weights.registry import data_folder, published_entries

if __name__ == "__main__":
    records = [entry.to_json() for entry in published_entries().values()]
    text = json.dumps(records, indent=1, ensure_ascii=False)
    (data_folder() / "torchvision.json").write_text(f"{text}\n", encoding="utf-8")
