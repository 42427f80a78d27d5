"""Runs every test/parity/*_parity.py and ends with "N passed, N failed". Needs Python with torch,
transformers and peft; arguments (a seed) are handed on."""

import os
import pathlib
import subprocess
import sys

folder = pathlib.Path(__file__).resolve().parent
environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
               "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}  # fmt: skip
passed = failed = 0
for script in sorted(folder.glob("*_parity.py")):
    print(f"== {script.name}", flush=True)
    result = subprocess.run([sys.executable, script, *sys.argv[1:]], env=environment, check=False)
    passed += result.returncode == 0
    failed += result.returncode != 0
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or not passed else 0)
