"""Programs found in what executors write: cases decided by hand, then properties of any text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.programs import find_program, program_of, whole_program

READ = "n = int(input())\nprint(n * 2)\n"
F = "def f(x):\n    return x + 1\n"
TEXT = '"""\nThis is my program.\n"""\nimport sys\nprint(len(sys.stdin.read()))\n'

CASES = {
    "a tagged block": (f"Here is it.\n\n```python\n{READ}```\nIt doubles n.", READ),
    "a block without a tag": (f"```\n{READ}```", READ),
    "any spelling of the tag": (f"```Python3\n{READ}```", READ),
    "tildes": (f"~~~py\n{READ}~~~", READ),
    "backticks inside tildes": ('~~~py\ns = "```"\nprint(s)\n~~~', 's = "```"\nprint(s)\n'),
    "a longer fence": ('````python\ns = """\n```\n"""\nprint(s)\n````', 's = """\n```\n"""\nprint(s)\n'),
    "an indented block": (f"1. Do:\n\n   ```python\n   {F.replace(chr(10), chr(10) + '   ')}\n   ```", F),
    "a quoted block": ("> ```python\n> x = 1\n> print(x)\n> ```", "x = 1\nprint(x)\n"),
    "a block in a list": ("- ```python\n  print(1)\n  ```", "print(1)\n"),
    "a block indented more than its fence": ("```python\n    x = 1\n    print(x)\n```", "x = 1\nprint(x)\n"),
    "windows line ends": ("```python\r\nx = 1\r\nprint(x)\r\n```\r\n", "x = 1\nprint(x)\n"),
    "a fence behind prose": (f"Here is the code: ```python\n{READ}```", READ),
    "a fence without a tag behind a colon": (f"The program: ```\n{READ}```", READ),
    "code behind the opening fence": ("```python import sys\nprint(1)\n```", "import sys\nprint(1)\n"),
    "code as the tag": ("```import sys\nprint(1)\n```", "import sys\nprint(1)\n"),
    "all in one line": ("So ```print(1)``` it is:\n```print(2)```", "print(2)\n"),
    "a fence at the end of the last line": ("```python\nx = 1\nprint(x)```\nDone.", "x = 1\nprint(x)\n"),
    "cut by the token limit": (f"Sure.\n```python\n{READ}", READ),
    "a closed draft before a cut one": (f"```python\n{READ}```\nBetter:\n```python\nn = int(inp", READ),
    "a fence never closed before another": (
        "```python\nx = input()\n```python\nprint(input())\n```",
        "print(input())\n",
    ),
    "the final version": (f"```python\nprint(input())\n```\nFaster:\n```python\n{READ}```", READ),
    "usage behind it": (f"```python\n{READ}```\nUsage:\n```python\nprint(solve(3))\n```", READ),
    "its output behind it": (f"```\n{READ}```\nprints\n```\n4\n```", READ),
    "a shell command before it": (f"```bash\npip install x\n```\n```python\n{READ}```", READ),
    "a tagged block beats one without": (f"```python\n{READ}```\n```\nx = input()\n```", READ),
    "another language": ("```cpp\n#include <iostream>\nint main() { x = 5; }\n```", ""),
    "output alone": ("It prints\n```\n5\n```", ""),
    "opened by the prompt": (f"{READ}```\n\nIt doubles n.", READ),
    "opened by the prompt, then more": (f"{READ}```\n\nIn short:\n```\n5\n```", READ),
    "opened by the prompt without a tag": (f"python\n{READ}```", READ),
    "a comment first, opened by the prompt": (f"# doubles\n{READ}```", f"# doubles\n{READ}"),
    "bare code": (READ, READ),
    "bare code under prose": (f"This reads n and doubles it.\n\n{READ}", READ),
    "bare code over prose": (f"{READ}\nExplanation:\nWe double n.", READ),
    "bare code over a sentence": (f"{READ}\nThe program doubles n.", READ),
    "bare code over a chat's end": (f"{READ}<|im_end|>\nassistant", READ),
    "bare code over output in a fence": (f"{READ}\nOutput:\n```text\n4\n```", READ),
    "prose inside a string": (TEXT, TEXT),
    "a comment above bare code": (f"# reads n\n{READ}", f"# reads n\n{READ}"),
    "comments inside bare code": (
        f"{READ}# Step one: print again\nprint(n)\n",
        f"{READ}# Step one: print again\nprint(n)\n",
    ),
    "an indented program under prose": (f"Like so:\n\n    {F.replace(chr(10), chr(10) + '    ')}\nDone.", F),
    "a tag": (f"<code>\n{READ}</code> Good.", READ),
    "a tag in capitals": (f"Fine.\n<ANSWER>{READ}</ANSWER>", READ),
    "square tags": (f"[PYTHON]\n{READ}[/PYTHON]\nx = 2\n", READ),
    "begin and done": (f"[BEGIN]\n{READ}[DONE]\nx = 2\n", READ),
    "a tag that nothing closes": (f"<code>\n{READ}", READ),
    "the last tag": (f"<code>\nx = 1\n</code>\n<code>\n{READ}</code>", READ),
    "a fence inside a tag": (f"<answer>\n```python\n{READ}```\n</answer>", READ),
    "a session": ("```python\n>>> x = 1\n>>> if x:\n...     print(x)\n...\n1\n```", "x = 1\nif x:\n    print(x)\n"),
    "a session without a fence": (">>> x = 1\n>>> x\n1\n", "x = 1\nx\n"),
    "a session behind it": (f"```python\n{READ}```\n```\n>>> input()\n```", READ),
    "thoughts": (f"<think>\n```python\nx = input()\n```\n</think>\n{READ}", READ),
    "thoughts without an end": (f"<think>\n```python\n{READ}```", ""),
    "a byte order mark": ("\ufeffprint(1)\n", "print(1)\n"),
    "prose alone": ("I would sort the numbers and then print the largest of them.", ""),
    "nothing": ("", ""),
    "an empty block": ("```python\n```", ""),
    "blanks": (" \n\t\n", ""),
}


@pytest.mark.parametrize(("text", "program"), CASES.values(), ids=CASES.keys())
def test_by_hand(text, program):
    assert find_program(text) == program


def test_there_are_at_least_thirty_cases():
    assert len(CASES) >= 30


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (f"```python\n{F}```\n```python\nprint(f(1))\n```", F),
        (f"```python\n{F}```\n```python\ndef g(x): return input()\n```", F),
        (f"```python\ndef f(x): return 0\n```\nBetter:\n```python\n{F}```", F),
        ("```python\nf = lambda x: x\n```\n```python\nff = 1\nf == 2\n```", "f = lambda x: x\n"),
        ("```python\nasync def f (x): pass\n```\n```python\ndef ff(x): pass\n```", "async def f (x): pass\n"),
        (f"```\n{F}```\nFor example\n```\n>>> f(1)\n2\n```", F),
        ("```python\ndef g(x): pass\n```\n```python\ndef h(x): pass\n```", "def h(x): pass\n"),  # neither defines it
    ],
)
def test_of_several_blocks_the_last_that_defines_the_entry_point(text, program):
    assert find_program(text, "f") == program


PROMPT = (
    'from typing import List\n\n\ndef helper(x):\n    return x\n\n\ndef f(xs: List[int]) -> int:\n    """ Adds. """\n'
)
GIVEN = "from typing import List\n\n\ndef helper(x):\n    return x\n\n"
HELPED = Tests(checks=("assert f([1]) == 1",), entry_point="f", prompt=PROMPT)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("```python\ndef f(xs):\n    return sum(xs)\n```", f"{GIVEN}def f(xs):\n    return sum(xs)\n"),
        ("    return sum(xs)\n", f"{PROMPT}    return sum(xs)\n"),
        ("    t = 0\n\n    return t\n\n\nprint(f([1]))\n", f"{PROMPT}    t = 0\n\n    return t\n"),
        ("    return sum(xs)\n```\nIt adds.", f"{PROMPT}    return sum(xs)\n"),  # the prompt opened the fence
        ("```python\nfor x in xs:\n    pass\n```", f"{PROMPT}    for x in xs:\n        pass\n"),
        (
            '"""Doc."""\nfrom __future__ import annotations\nf = sum\n',
            f'"""Doc."""\nfrom __future__ import annotations\n{GIVEN}f = sum\n',
        ),
    ],
)
def test_what_the_statement_begins_belongs_to_the_program(text, source):
    program = program_of(text, HELPED)
    assert program is not None
    assert program.source == source
    assert (program.inputs, program.checks) == ((), HELPED.checks)
    compile(source, "source", "exec")


def test_a_harness_is_put_behind():
    tests = Tests(checks=("assert value_0() == 1",), entry_point="f", harness="def value_0(): return f(0)\n")
    assert whole_program(F, tests) == f"{F}\ndef value_0(): return f(0)\n"


def test_a_program_carries_inputs_and_nothing_of_what_is_expected():
    program = program_of(READ, Tests(inputs=("1\n", "2\n"), outputs=("secret 2", "secret 4")))
    assert program is not None
    assert (program.source, program.inputs, program.checks) == (READ, ("1\n", "2\n"), ())
    assert "secret" not in repr(program)
    assert program_of("I cannot.", HELPED) is None


names = st.sampled_from(["a", "n", "total", "xs"])
statements = st.one_of(
    st.builds("{} = {}".format, names, st.integers(0, 99)),
    st.builds("print({})".format, names),
    st.builds("for {} in range({}):\n    print(1)".format, names, st.integers(0, 9)),
    st.builds("def {}(x):\n    return x\n".format, names),
    st.just("import sys"),
    st.just('s = """\nThe text of a string.\n"""'),
)
programs = st.lists(statements, min_size=1, max_size=6).map("\n".join).map(lambda text: text.rstrip() + "\n")
prose = st.sampled_from(["", "Here is the program.\n", "We add them up and print it:\n\n", "Sure!\n"])


@given(programs, prose, prose, st.sampled_from(["```", "```python", "~~~", "~~~py", "````Python"]), st.integers(0, 4))
def test_a_program_in_any_dress_is_read_back(program, before, behind, fence, indent):
    mark = fence.rstrip("Ppython")
    lines = [fence, *program.rstrip("\n").split("\n"), mark]
    margin = " " * indent
    text = before + "".join(f"{margin}{line}\n" if line else "\n" for line in lines) + behind
    assert find_program(text) == program
    assert find_program(before + program + "\n" + behind.rstrip("\n")) == program
    assert find_program(f"{before}<code>\n{program}</code>\n{behind}") == program
    assert find_program(find_program(text)) == program


@given(programs, st.integers(0, 300))
def test_a_cut_block_is_the_beginning_of_the_program(program, length):
    whole = f"```python\n{program}"
    found = find_program(whole[: len("```python\n") + length])
    assert program.startswith(found.removesuffix("\n"))


@given(
    st.text(alphabet=st.sampled_from("`~> \n\tdef(x):=1'\"#A.<code>[]"), max_size=200), st.sampled_from(["", "f", "x"])
)
def test_any_text_gives_lines_of_itself(text, entry_point):
    found = find_program(text, entry_point)
    assert found == "" or (found.endswith("\n") and found.strip())
    assert all(line.strip() in text for line in found.split("\n"))


HARD = {
    "backticks": "`" * 100_000,
    "fences": "```\n" * 25_000,
    "tagged fences": "```python\n" * 10_000,
    "fences behind prose": "a: ```python\n" * 8_000,
    "one line of fences": "a ```python " * 8_000,
    "brackets": "f(" * 50_000,
    "brackets in lines": ("f(" * 190 + "\n") * 260,
    "calls": ("a().b" * 79 + "\n") * 250,
    "targets": ("a, " * 133 + "\n") * 250,
    "annotations": ("a: " + "b, " * 130 + "\n") * 250,
    "imports": ("import " + "a, " * 130 + "!\n") * 250,
    "colons": ("if " + ": " * 190 + "x\n") * 250,
    "quotes": '"""' * 33_000,
    "tags": "<code>\n" * 14_000,
    "words": "Aa " * 33_000,
    "blanks": " " * 100_000 + "x",
    "blank lines": "\n" * 100_000,
    "prompts": ">>> \n" * 20_000,
    "comments": "#\n" * 50_000 + "x = 1",
    "thoughts": "</think>" * 12_000,
    "definitions": "def f(" * 16_000,
    "futures": "from __future__ import (" * 4_000,
    "an annotation without end": "f:" * 50_000,
    "dots": "x." * 50_000,
    "equals": "a=" * 50_000,
    "nothing said": "x" * 100_000,
}


@pytest.mark.parametrize("text", HARD.values(), ids=HARD.keys())
def test_texts_made_to_be_slow_are_not(text):
    begin = time.process_time()
    program_of(text, HELPED)
    find_program(f"```python\n{text}\n```")
    assert time.process_time() - begin < 1.0
