"""Where flaws of plans are found and what is changed there, decided by hand."""

import re

import pytest
from plans import PLANS, edits, marked

from tracelift_jax.groups.arithmetic_rework import apply
from tracelift_jax.groups.code_flaws import FLAW_KINDS
from tracelift_jax.groups.code_prose import Prose

EDITED = tuple(kind for kind in FLAW_KINDS if kind not in ("contradictory_step", "code_dumped"))

# --- Every change of a kind in plans that were read by hand ----------------------------------------------------------

EXPECTED: dict[str, dict[str, set[str]]] = {
    "primes": {
        "wrong_algorithm": {
            "Numbers [less -> greater] than 2",
            "so return [False -> True] for them.",
            "including the [square -> cube] root of",
            "n is [ -> not ] divisible by",
            "we return [False -> True] immediately. If",
            "found, return [True -> False] . Checking",
            "to the [square -> cube] root is",
        },
        "missed_constraint": set(),
        "missed_edge_case": {
            "[Numbers less than 2 are not prime, so return False for them. For the rest, t -> T] ry every",
            "up to [and -> but not] including the",
        },
        "wrong_complexity": {"is O( [sqrt(n) -> 1] ).", "is O( [sqrt(n) -> log n] )."},
        "wrong_data_structure_step": set(),
    },
    "singles": {
        "wrong_algorithm": set(),
        "missed_constraint": {
            "count is [exactly -> at least] 1. -",
            "exactly 1. [\n- The order of the kept elements must stay the same as in the input, so we build a new list "
            "instead of sorting. -> ] Both passes",
        },
        "missed_edge_case": set(),
        "wrong_complexity": {
            "are O( [n -> 1] ), and",
            "are O( [n -> log n] ), and",
            "takes O( [n -> 1] ) space.",
            "takes O( [n -> log n] ) space.",
        },
        "wrong_data_structure_step": {"Use a [dictionary -> set] to count"},
    },
    "maze": {
        "wrong_algorithm": {
            "so the [shortest -> longest] path can",
            "with a [breadth-first -> depth-first] search. Put",
        },
        "missed_constraint": {"the grid [, is not a wall -> ] and has"},
        "missed_edge_case": {"the queue. [If the target cell is never reached, print -1.  -> ] Every cell"},
        "wrong_complexity": {"gives O( [n * m -> n + m] ).", "gives O( [n * m -> n] )."},
        "wrong_data_structure_step": {
            "into a [queue -> stack] with distance",
            "0 and [mark it as visited -> leave it unmarked] . Repeatedly",
        },
    },
    "password": {
        "wrong_algorithm": {
            "and return [False -> True] at the",
            "passes, return [True -> False] .",
            "violation. If [every -> some] check passes,",
        },
        "missed_constraint": {
            "Its length [must -> need not] be at",
            "12. It [must -> need not] contain at",
            "contain at [least -> most] one lowercase",
            "least one [lowercase  -> ] letter, one",
            "letter, one [uppercase  -> ] letter, one",
            "lowercase letter [, one uppercase letter -> ] , one",
            "@. It [must not -> may] contain whitespace.",
            "and @. [It must not contain whitespace.  -> ] Check the",
        },
        "missed_edge_case": set(),
        "wrong_complexity": set(),
        "wrong_data_structure_step": set(),
    },
    "coins": {
        "wrong_algorithm": {
            "form the [sum -> product] $x$. Initially",
            "$n$ in [increasing -> decreasing] order and",
            "add $dp[x [- -> +] c]$ to",
        },
        "missed_constraint": {"not matter. [All values are taken modulo $10^9 + 7$.  -> ] The complexity"},
        "missed_edge_case": {"to $n [ ->  - 1] $ in"},
        "wrong_complexity": {"is $O( [nk -> n + k] )$, where", "is $O( [nk -> n] )$, where"},
        "wrong_data_structure_step": set(),
    },
    "kth": {
        "wrong_algorithm": {
            "the k [largest -> smallest] elements seen",
            "pop the [smallest -> largest] element. After",
            "the k-th [largest -> smallest] element. Each",
        },
        "missed_constraint": set(),
        "missed_edge_case": {"the heap [exceeds -> reaches] k, pop"},
        "wrong_complexity": {
            "costs O( [log k -> 1] ), so",
            "is O( [n log k -> n] ). It",
            "is O( [n log k -> log k] ). It",
        },
        "wrong_data_structure_step": {
            "maintain a [min-heap -> max-heap] that holds",
            "new element, [push it onto -> pop it from] the heap,",
            "exceeds k, [pop -> peek at] the smallest",
            "processed, the [root -> last element] of the",
        },
    },
    "rolling": {
        "wrong_algorithm": {
            "the running [maximum -> minimum] . 2.",
            "numbers from [left to right -> right to left] . 3.",
            "number is [greater -> less] than the",
            "the running [maximum -> minimum] , update",
            "the running [maximum -> minimum] . 4.",
            "the running [maximum -> minimum] to the",
            "list is [ ->  not] empty, return",
        },
        "missed_constraint": set(),
        "missed_edge_case": {"result list. [\n5. If the input list is empty, return an empty list. -> ]"},
        "wrong_complexity": {
            f"empty list. [ -> \n\n{claim}]"
            for claim in (
                "The whole procedure takes O(log n) time, where n is the size of the input.",
                "Overall this runs in O(1) time, whatever the size of the input.",
                "In total only O(log n) steps are needed for an input of size n.",
                "The running time is constant: it does not depend on the size of the input.",
            )
        },
        "wrong_data_structure_step": {
            "maximum. 4. [Append the running maximum to -> Insert the running maximum at the front of] the result"
        },
    },
    "jobs": {
        "wrong_algorithm": {
            "by their [end -> start] time and",
            "that ends [earliest -> latest] can always",
        },
        "missed_constraint": {
            "2 * [10^5 -> 10^2] intervals are",
            "endpoints are [ -> not ] allowed: an",
            "fast enough. [ Touching endpoints are allowed: an interval may start exactly when the previous one ends. "
            "-> ]",
        },
        "missed_edge_case": {
            "start is [not earlier -> later] than the",
            "fast enough. [ Touching endpoints are allowed: an interval may start exactly when the previous one ends. "
            "-> ]",
        },
        "wrong_complexity": {"an O( [n log n -> n] ) solution", "an O( [n log n -> log n] ) solution"},
        "wrong_data_structure_step": set(),
    },
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("kind", EDITED)
def test_changes(name, kind):
    assert {marked(PLANS[name], edit) for edit in edits(PLANS[name], kind)} == EXPECTED[name][kind]


# --- Single sentences: what matters is changed, and nothing that does not ---------------------------------------------


SENTENCES: dict[str, tuple[str, ...]] = {
    "wrong_algorithm": (
        # the algorithm, where it matters
        "Sort the array{| in descending order} first, then use two pointers.",
        "Sort the array and compare it with the other one.",
        "Use BFS to count the components.",
        "Use {BFS|DFS} to find the distance to the exit.",
        "All weights are known, so run {Dijkstra's algorithm|breadth-first search}.",
        "{Dynamic programming|Greedy selection} solves this.",
        "We could also use dynamic programming.",  # another way
        "For example, the minimum of 3 and 5 is 3.",
        "We are given the largest number.",  # the problem retold
        "Keep the smallest and the largest value.",  # both
        "{MAX|MIN}(a, b) is taken.",
        "Find a spanning tree with {Kruskal's|Dijkstra's} algorithm.",
        "Visit the tree by {in-order|pre-order} traversal.",
        "dp[i] is dp[i {-|+} 1] and something more.",
        "Use {the greatest common divisor|the least common multiple} of both.",
        # a step
        "{Increase|Decrease} the total, then go on.",
        "Put {an opening|a closing} bracket aside.",
        "{An uppercase|A lowercase} letter is skipped.",
        "Convert every letter to uppercase.",
        "If it is odd, add 1. Otherwise subtract it if even.",
        "When all items are processed, stop.",
        "If x {isn't|is} in the set, skip x.",
        "If no digit is left, stop.",
        "Walk from left to right and add up.",  # no matter from where
        "Add each digit to the list.",
        "{Add|Subtract} each digit {to|from} the balance.",
    ),
    "wrong_data_structure_step": (
        "{Push x onto|Pop x from} the heap.",
        "Convert it to a {set|list} to drop duplicates.",
        "Set the flag.",
        "A call stack overflow is possible.",
        "Map each {letter|index} to its {index|letter}.",
        "Add the two numbers to the sum.",
        "Use an adjacency list with {outgoing|incoming} edges.",
        "Take what is at index {9|10}.",
        "Sort by a key.",
        "Use a {hash map|set} to count them.",
        "Use a hash map.",
    ),
    "missed_constraint": (
        "Count an even number once, and all the {even |}numbers twice.",
        "Find {an unvisited|a} cell.",
        "Print the answer{ modulo 1e9+7|}.",
        "The loop runs at most n times.",
        "Compare the words{, ignoring case|}.",
        "Take every item{ except the last one|}.",
        "Each digit may be used {only once|any number of times}.",
        "The time is O(n) when n is at most 5.",
        "Count {strictly increasing|non-decreasing} runs.",
        "The sum {must|need not} be even.",
        "Keep those whose count is {exactly|at least} 1.",
        "Each swap removes exactly one pair, and it must.",
        "A must come first, so we sort.",
        "Sum the even numbers and count the odd numbers.",
        "Turn all lowercase letters into digits.",
        "The complexity must be low.",
        "Go on. A brute-force search must not be used.",
    ),
    "missed_edge_case": (
        "Go from 0 to n - {1|2}.",
        "There are n - k{ + 1|} windows.",
        "Stop while low <{=|} high.",
        "Stop if 1 <= 3 holds.",
        "Print the index{, or -1 if there is none|}.",
        "Print the index{; otherwise print -1|}.",
        "Add them up{, and return -1 if no index fits|}.",
        "Add them up{, returning 0 when the list is empty|}.",
        "Create an empty list for the result. Go on.",
        "While the stack is not empty, go on. Then stop.",
        "{If the list is empty, return 0. Otherwise, w|W}e sort it.",
        "If the list is empty, return 0. This is rare.",  # "this" would hang in the air
        "If the list is empty, it takes O(1). Go on.",
        "{If no value fits, print -1. |}Go on.",
        "If no value fits, return False. Go on.",
        "Go on. For example, the list may be empty.",
    ),
    "wrong_complexity": (
        "Lookups take O(1).",
        "A naive search takes O(n^2).",
        "It needs O(n) memory.",  # not a plan that keeps anything
        "It needs O(n) memory and O({log k|1}) time.",
        "It needs O(1) time for each number and no more than O(n) memory.",
        "It takes {quadratic|linear} time.",
        "A linear scan is enough.",
        "This is {an exponential|a quadratic} time method.",
    ),
}


def alternatives(sentence: str) -> tuple[str, set[str]]:
    """ "a {set|list} of" as what it was and, if there is something in braces, what it becomes."""
    before, after = (re.sub(r"\{(.*?)\|(.*?)\}", which, sentence) for which in (r"\1", r"\2"))
    return before, {after} - {before}


@pytest.mark.parametrize(("kind", "sentence"), [(kind, one) for kind, some in SENTENCES.items() for one in some])
def test_one_sentence(kind, sentence):
    before, after = alternatives(sentence)
    made = {apply(before, (edit,)) for edit in edits(before, kind)}
    assert made == after


@pytest.mark.parametrize(
    ("claim", "lower"),
    [
        ("O(log n)", {"O(1)"}),
        ("O(N)", {"O(log N)", "O(1)"}),
        ("O(n log n)", {"O(n)", "O(log n)"}),
        ("O(nlogn)", {"O(n)", "O(logn)"}),
        (r"$O(n \log n)$", {"$O(n)$", r"$O(\log n)$"}),
        (r"$O(n)$", {"$O(1)$", r"$O(\log n)$"}),
        (r"$O(n \times \log m)$", {"$O(n)$", r"$O(\log m)$"}),
        ("O(n * m)", {"O(n + m)", "O(n)"}),
        ("O(nk)", {"O(n + k)", "O(n)"}),
        ("O(V + E)", {"O(log V)", "O(1)"}),
        ("O((V + E) log V)", {"O(V + E)", "O(log V)"}),
        ("O(n^2)", {"O(n)", "O(n log n)"}),
        ("O(n**2)", {"O(n)", "O(n log n)"}),
        ("O(n^3)", {"O(n)", "O(n^2)"}),
        ("O(2^n)", {"O(n^2)", "O(n)"}),
        (r"O(n \cdot 2^n)", {"O(n^2)", "O(n)"}),
        ("O(n!)", {"O(n^2)"}),
        ("O(sqrt(n))", {"O(log n)", "O(1)"}),
        ("O(len(s))", {"O(log len(s))", "O(1)"}),
        ("O(1)", set()),
        ("O(26)", set()),
        ("O(n / w)", set()),
    ],
)
def test_claims_become_too_low(claim, lower):
    text = f"The whole takes {claim} time."
    assert {apply(text, (edit,)) for edit in edits(text, "wrong_complexity")} == {
        f"The whole takes {one} time." for one in lower
    }


def test_a_plan_without_a_claim_gets_one_if_it_reads_all_of_its_input():
    assert {edit.text.split("O(")[0] for edit in edits("Check each number.\nDone", "wrong_complexity")} == {
        "\n\nThe whole procedure takes ",
        "\n\nOverall this runs in ",
        "\n\nIn total only ",
        "\n\nThe running time is constant: it does not depend on the size of the input.",
    }
    assert not edits("Return n * (n + 1) / 2.", "wrong_complexity")
    assert not edits("Check each number, which takes O(1) for each.", "wrong_complexity")


# --- Contradictions ---------------------------------------------------------------------------------------------------


def added(text: str) -> dict[str, list[int]]:
    """The sentences that contradict a plan, each with the numbers of the sentences it may stand behind."""
    ends = [end for _, end in Prose.read(text, "").spans]
    found: dict[str, list[int]] = {}
    for edit in edits(text, "contradictory_step"):
        if edit.start == edit.end:
            found.setdefault(edit.text.strip(), []).append(ends.index(edit.start))
    return found


@pytest.mark.parametrize(
    ("said", "contradiction"),
    [
        ("Sort the words.", "Nothing is sorted at any point, so the elements keep their original order."),
        ("Sort in increasing order.", "Since the order is descending, the values only get smaller from here on."),
        ("Sort in descending order.", "Since the order is ascending, the values only get larger from here on."),
        ("Keep a deque of indices.", "No deque is used at any point; a single variable is all that is stored."),
        ("Scan from left to right.", "Note that the scan moves from right to left here."),
        ("Scan from right to left.", "Note that the scan moves from left to right here."),
        ("Use a recursive helper.", "The function never calls itself."),
        ("Search by DFS.", "All vertices at one distance are visited before any vertex that is farther away."),
        ("Choose greedily.", "No choice is made greedily; all combinations are tried before one of them is taken."),
        ("If the sum is odd, return -1.", "Recall that 0 is returned when the sum is odd."),
        ("Return False if a gap exists.", "Recall that True is returned when a gap exists."),
        ("If n is even, the answer is 0.", "As said above, when n is even the result is -1."),
        ("Set the total to 0.", "Remember that the total was set to 1 at the beginning."),
        ("Initialize best with -1 and go.", "Note that best started with the value 0."),
        ("Loop over the rows.", "Only the first element is ever looked at."),
        ("Print it modulo 10^9 + 7.", "The result is kept exact and is not reduced modulo anything."),
    ],
)  # fmt: skip
def test_contradictions_come_later(said, contradiction):
    assert added(f"{said} Then go on. And so on.")[contradiction] == [1, 2]
    assert added(said)[contradiction] == [0]


@pytest.mark.parametrize(
    "said",
    [
        "There is no need to sort the words, and they are not sorted.",
        "If it is so, return -1.",  # what is?
        "Scan from left to right, then from right to left.",
        "Unlike others, we would keep a stack.",
        "Use no extra memory but a stack.",
        "Both are done.",
    ],
)
def test_what_is_not_contradicted(said):
    assert added(f"{said} Then stop.") == {}


def test_a_contradiction_does_not_part_what_hangs_together():
    text = "Sort the words. If a word is new, keep it. Otherwise drop it. Then stop."
    sentence = "Nothing is sorted at any point, so the elements keep their original order."
    assert added(text)[sentence] == [2, 3]


def test_what_was_said_before_is_reversed():
    text = "Keep the running maximum. Use a stack. If x is large, update the running maximum and pop the stack."
    reversed_ = {marked(text, edit) for edit in edits(text, "contradictory_step") if edit.start < edit.end}
    assert reversed_ == {
        "the running [maximum -> minimum] and pop",
        *(f"pop the [stack -> {other}] ." for other in ("queue", "heap", "dictionary", "linked list")),
    }
    new = "The array is long. Sort the array and use two pointers."  # "in descending order" would be said once
    assert all(edit.start == edit.end and edit.text.endswith(".") for edit in edits(new, "contradictory_step"))
