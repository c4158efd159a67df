from __future__ import annotations

import platform
import subprocess
import sys


def test_glibc_takes_the_setting() -> None:
    """In a process of its own: the setting is the whole process's."""
    program = "from blindai.enclave.allocator import keep_freed_memory; print(keep_freed_memory())"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(platform.libc_ver()[0] == "glibc")
