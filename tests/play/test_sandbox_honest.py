# ruff: noqa: E501
"""Fifty honest programs: what a person may expect of ordinary Python works in the sandbox and gives the right output."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from studio.play.sandbox import run_code

# name: (program, what it must print)
PROGRAMS = {
    "hello": ("print('Hello, world!')", "Hello, world!"),
    "fizzbuzz": ("print(*['Fizz' * (i % 3 == 0) + 'Buzz' * (i % 5 == 0) or i for i in range(1, 16)])", "1 2 Fizz 4 Buzz Fizz 7 8 Fizz Buzz 11 Fizz 13 14 FizzBuzz"),
    "factorial": ("import math\nprint(math.factorial(25))", "15511210043330985984000000"),
    "fibonacci": ("a, b = 0, 1\nfor _ in range(50): a, b = b, a + b\nprint(a)", "12586269025"),
    "primes": ("print([n for n in range(2, 40) if all(n % d for d in range(2, n))])", "[2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]"),
    "reverse words": ("print(' '.join('the quick fox'.split()[::-1]))", "fox quick the"),
    "palindrome": ("s = 'A man a plan a canal Panama'.replace(' ', '').lower()\nprint(s == s[::-1])", "True"),
    "sort by key": ("print(sorted(['pear', 'fig', 'apple'], key=len))", "['fig', 'pear', 'apple']"),
    "binary search": ("import bisect\nprint(bisect.bisect_left([1, 3, 5, 7], 5))", "2"),
    "word count": ("from collections import Counter\nprint(Counter('to be or not to be'.split()).most_common(2))", "[('to', 2), ('be', 2)]"),
    "defaultdict": ("from collections import defaultdict\nd = defaultdict(list)\nd['a'].append(1)\nprint(dict(d))", "{'a': [1]}"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int = 2\nprint(P(1))", "P(x=1, y=2)"),
    "enum": ("from enum import Enum\nclass C(Enum):\n    RED = 1\nprint(C.RED, C(1).name)", "C.RED RED"),
    "named tuple": ("from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\nprint(P(3))", "P(x=3)"),
    "generator": ("def g():\n    yield from range(3)\nprint(list(g()))", "[0, 1, 2]"),
    "decorator": ("import functools\n@functools.lru_cache\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nprint(f(80))", "23416728348467685"),
    "context manager": ("from contextlib import contextmanager\n@contextmanager\ndef c():\n    print('in'); yield; print('out')\nwith c(): print('body')", "in\nbody\nout"),
    "exception caught": ("try: 1 / 0\nexcept ZeroDivisionError as e: print(e)", "division by zero"),
    "regular expression": ("import re\nprint(re.findall(r'\\d+', 'a1b22c333'))", "['1', '22', '333']"),
    "JSON": ("import json\nprint(json.dumps(json.loads('{\"b\": [1, 2.5, null]}')))", '{"b": [1, 2.5, null]}'),
    "CSV": ("import csv, io\nprint(list(csv.DictReader(io.StringIO('a,b\\n1,2'))))", "[{'a': '1', 'b': '2'}]"),
    "date": ("from datetime import date, timedelta\nprint(date(2024, 2, 28) + timedelta(days=2))", "2024-03-01"),
    "decimal": ("from decimal import Decimal\nprint(Decimal('0.1') + Decimal('0.2'))", "0.3"),
    "fraction": ("from fractions import Fraction\nprint(Fraction(1, 3) + Fraction(1, 6))", "1/2"),
    "statistics": ("import statistics\nprint(statistics.median([3, 1, 4, 1, 5]))", "3"),
    "seeded random": ("import random\nrandom.seed(7)\na = random.random()\nrandom.seed(7)\nprint(a == random.random())", "True"),
    "itertools": ("import itertools\nprint(list(itertools.combinations('abc', 2)))", "[('a', 'b'), ('a', 'c'), ('b', 'c')]"),
    "heap": ("import heapq\nh = [5, 2, 8]\nheapq.heapify(h)\nprint(heapq.heappop(h))", "2"),
    "matrix product": ("a = [[1, 2], [3, 4]]\nprint([[sum(x * y for x, y in zip(r, c)) for c in zip(*a)] for r in a])", "[[7, 10], [15, 22]]"),
    "quick sort": ("def q(x): return x and q([y for y in x[1:] if y < x[0]]) + [x[0]] + q([y for y in x[1:] if y >= x[0]])\nprint(q([3, 1, 2]))", "[1, 2, 3]"),
    "n queens": ("def n(k, c=()): return sum(n(k, (*c, x)) for x in range(k) if all(x != y and abs(x - y) != len(c) - i for i, y in enumerate(c))) if len(c) < k else 1\nprint(n(6))", "4"),
    "sieve in a byte array": ("s = bytearray([1]) * 100_000\nfor i in range(2, 317): s[i * i::i] = bytes(len(s[i * i::i]))\nprint(sum(s) - 2)", "9592"),
    "input": ("n = int(input())\nprint(sum(int(input()) for _ in range(n)))", "30"),
    "rest of the input": ("import sys\nprint(sys.stdin.read().split())", "['2', '10', '20']"),
    "file": ("with open('a.txt', 'w') as f: f.write('x\\ny')\nprint(open('a.txt').read().splitlines())", "['x', 'y']"),
    "folders": ("from pathlib import Path\nPath('a/b').mkdir(parents=True)\nPath('a/b/c.txt').touch()\nprint([str(p) for p in Path('a').rglob('*.txt')])", "['a/b/c.txt']"),
    "temporary file": ("import tempfile\nwith tempfile.NamedTemporaryFile('w+') as f:\n    f.write('t'); f.seek(0); print(f.read())", "t"),
    "database": ("import sqlite3\nc = sqlite3.connect('x.db')\nc.execute('create table t(a)'); c.execute('insert into t values (4)')\nprint(c.execute('select a * a from t').fetchone())", "(16,)"),
    "compression": ("import zlib\nprint(len(zlib.compress(bytes(10_000))) < 100)", "True"),
    "hash": ("import hashlib\nprint(hashlib.sha256(b'abc').hexdigest()[:16])", "ba7816bf8f01cfea"),
    "base64": ("import base64\nprint(base64.b64encode(b'peft').decode())", "cGVmdA=="),
    "unicode": ("print('naïve 日本 😀'.upper(), len('😀'))", "NAÏVE 日本 😀 1"),
    "threads": ("from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as p: print(list(p.map(abs, [-1, -2])))", "[1, 2]"),
    "processes": ("from multiprocessing import Pool\ndef sq(x): return x * x\nif __name__ == '__main__':\n    with Pool(2) as p: print(p.map(sq, [1, 2, 3]))", "[1, 4, 9]"),
    "queue between processes": ("import multiprocessing as m\nc = m.get_context('fork')\nq = c.Queue()\np = c.Process(target=q.put, args=(5,))\np.start(); print(q.get()); p.join()", "5"),
    "subprocess": ("import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout.strip())", "42"),
    "async": ("import asyncio\nasync def f(x):\n    await asyncio.sleep(0); return x\nasync def g(): return await asyncio.gather(f(1), f(2))\nprint(asyncio.run(g()))", "[1, 2]"),
    "pickle": ("import pickle\nclass A: x = 1\nprint(pickle.loads(pickle.dumps(A())).x)", "1"),
    "unit test": ("import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1 + 1, 2)\nr = unittest.main(exit=False, argv=['x'], verbosity=0).result\nprint(r.wasSuccessful(), r.testsRun)", "True 1"),
    "help on itself": ("'''Says what it is.'''\nimport inspect\ndef f():\n    return 1\nprint(__doc__, __name__, inspect.getsource(f).splitlines()[1].strip())", "Says what it is. __main__ return 1"),
    "time zone": ("from datetime import datetime, timezone\nprint(datetime(2024, 7, 1, tzinfo=timezone.utc).isoformat())", "2024-07-01T00:00:00+00:00"),
    "at exit": ("import atexit\natexit.register(print, 'bye')\nprint('hi')", "hi\nbye"),
}  # fmt: skip


def test_fifty_honest_programs_give_their_output() -> None:
    assert len(PROGRAMS) >= 50
    with ThreadPoolExecutor(4) as pool:
        running = {name: pool.submit(run_code, source, stdin="2\n10\n20\n") for name, (source, _) in PROGRAMS.items()}
    for name, one in running.items():
        result = one.result()
        assert (result.reason, result.stdout.rstrip("\n")) == ("ok", PROGRAMS[name][1]), f"{name}: {result}"
