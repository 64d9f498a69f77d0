"""What a package installed without triton has to do: run by `make package`, in an environment of its own."""

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import sdn_triton

PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

assert Path(sys.prefix) in Path(sdn_triton.__file__).parents, f"not the installed one: {sdn_triton.__file__}"
assert importlib.util.find_spec("triton") is None, "triton is here"

about = metadata("sdn-triton")
assert about["Version"] == sdn_triton.__version__, about["Version"]
readme: str = about.get_payload()  # type: ignore[assignment]
first, *_ = PYTHON_BLOCK.findall(readme)
exec(compile(first, "README.md", "exec"), {"__name__": "readme"})

for command in (["--version"], ["doctor"], ["tune", "--help"], ["compare", "--help"], ["bench", "run", "--list"]):
    done = subprocess.run([Path(sys.prefix, "bin", "sdn-triton"), *command], capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
print(f"sdn_triton {sdn_triton.__version__} runs from {sys.prefix} without triton")
