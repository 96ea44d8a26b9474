"""Attacks on files, environment and descriptors of the host: what is not in the sandbox cannot be read, what is there cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
ABSENT = [
    *("/etc/shadow", "/etc/passwd", "/etc/hostname", "/root", "/home", "/sys", "/var", "/opt", "/boot", "/mnt", "/run", "/usr/local/etc"),
    *("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/kvm", "/dev/net/tun"),
    *(str(Path.home()), str(REPOSITORY)),
]


def test_it_is_not_in_the_sandbox(attack) -> None:
    result = attack(
        f"for path in {ABSENT!r}:\n    try: open(path); print('OPEN', path)\n    except OSError as e: print(type(e).__name__, path)"
    )
    assert result.stdout.splitlines() == [f"FileNotFoundError {path}" for path in ABSENT]


WAYS = {
    "path": "open(PATH).read()",
    "symbolic link": "import os\nos.symlink(PATH, 'link')\nopen('link').read()",
    "dots": "open('../../../../../..' + PATH).read()",
    "relative link": "import os\nos.symlink('../../..' + PATH, 'link')\nopen('/work/link').read()",
    "hard link": "import os\nos.link(PATH, 'link')",
    "through /proc": "open('/proc/self/root' + PATH).read()",
    "through the working folder": "open('/proc/self/cwd/../..' + PATH).read()",
    "import": "import importlib.util\nimportlib.util.spec_from_file_location('x', PATH + '.py').loader.load_module()",
    "shell": "import subprocess\nraise FileNotFoundError(subprocess.run(['cat', PATH], capture_output=True, text=True).stdout)",
    "write": "open(PATH, 'a').write('owned')",
    "delete": "import os\nos.remove(PATH)",
    "rename over": "import os\nopen('x', 'w').write('owned'); os.replace('x', PATH)",
}


@pytest.mark.parametrize("name", WAYS)
def test_a_readable_and_writable_file_of_the_host_stays_unseen(attack, secret_file, name) -> None:
    result = attack(f"PATH = {str(secret_file)!r}\n" + WAYS[name])
    assert result.exception.startswith("FileNotFoundError"), result
    assert "canary-5163" not in result.stdout + result.stderr


TRY_TO_WRITE = "for path in PATHS:\n    try: open(path, 'a').write('1'); print('WROTE', path)\n    except OSError as e: print(e.errno)"


def test_everything_but_the_work_folder_is_read_only(attack) -> None:
    new = ["/x", "/usr/x", "/usr/bin/x", "/usr/lib/x", "/bin/x", "/lib/x", "/dev/x"]
    result = attack(f"PATHS = {new!r}\n{TRY_TO_WRITE}")
    assert result.stdout.split() == [str(errno.EROFS)] * len(new)


def test_what_is_there_cannot_be_changed(attack) -> None:
    """The interpreter is not the user's, kernel settings are root's, and a lower kernel may lack one of them."""
    there = ["/usr/bin/python3", "/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory",
             "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/proc/1/mem"]  # fmt: skip
    result = attack(f"PATHS = {there!r}\n{TRY_TO_WRITE}")
    numbers = [int(word) for word in result.stdout.split()]
    assert len(numbers) == len(there)
    assert set(numbers) <= {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT}


def test_process_1_cannot_be_looked_into(attack) -> None:
    names = ["environ", "mem", "maps", "fd/1", "root/etc", "cwd/x"]
    result = attack(
        f"import os\nfor name in {names!r}:\n    try: os.open('/proc/1/' + name, 0); print('OPEN', name)\n"
        "    except OSError as e: print(e.errno)"
    )
    assert result.stdout.split() == [str(errno.EACCES)] * len(names)


def test_the_environment_of_the_host_is_not_there(attack, monkeypatch) -> None:
    monkeypatch.setenv("STUDIO_SECRET", "canary-5163")
    result = attack("import os\nprint(dict(os.environ), open('/proc/self/environ').read(), sorted(os.environ))")
    assert "canary" not in result.stdout
    assert set(os.environ) - {"HOME", "PATH", "PWD", "LANG", "TERM", "TMPDIR", "USER", "LOGNAME"}
    assert result.stdout.rstrip().endswith("['HOME', 'LANG', 'LOGNAME', 'MALLOC_ARENA_MAX', 'PATH', 'PWD', 'TERM', 'TMPDIR', 'USER']")


def test_open_files_of_the_host_are_not_passed_on(attack, secret_file) -> None:
    fd = os.open(secret_file, os.O_RDWR)
    os.set_inheritable(fd, True)
    result = attack(
        "import os\nfor fd in range(256):\n    try: print(fd, os.readlink(f'/proc/self/fd/{fd}').split(':')[0])\n    except OSError: pass"
    )
    os.close(fd)
    kinds = [line.split()[1] for line in result.stdout.splitlines()]
    assert kinds == ["/memfd", "pipe", "pipe", "pipe"]  # its input, its output, its errors, the report of its tests


def test_its_input_is_sealed(attack) -> None:
    assert attack("import os\nos.write(os.open('/proc/self/fd/0', os.O_RDWR), b'x')").exception.startswith("PermissionError")


def test_descriptors_run_out(attack) -> None:
    result = attack("import os\nn = 0\ntry:\n    while True: os.dup(0); n += 1\nexcept OSError as e: print(n < 64, e.errno)")
    assert result.stdout == "True 24\n"


def test_pickles_and_compiled_files_run_inside_too(attack, secret_file) -> None:
    result = attack(
        "import pickle\nclass A:\n    def __reduce__(self):\n        import os\n"
        f"        return (os.open, ({str(secret_file)!r}, 2))\npickle.loads(pickle.dumps(A()))"
    )
    assert result.exception.startswith("FileNotFoundError")
