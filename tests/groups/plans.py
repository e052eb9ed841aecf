"""Plans of programs as people write them (paragraphs, lists, formulas), and every edit that makes one flawed."""

import itertools

from tracelift_jax.groups.arithmetic_rework import Edit
from tracelift_jax.groups.code_flaws import WAYS
from tracelift_jax.groups.code_prose import Prose

PROGRAM = "n = int(input())\nprint(n)\n"

PLANS = {
    "primes": (
        "Numbers less than 2 are not prime, so return False for them. For the rest, try every candidate divisor from 2 "
        "up to and including the square root of n. If n is divisible by any of them, it is not prime and we return "
        "False immediately. If no divisor is found, return True. Checking only up to the square root is enough because "
        "divisors come in pairs, so the time is O(sqrt(n))."
    ),
    "singles": (
        "Elements that occur more than once must be dropped entirely, so we need the number of occurrences of every "
        "element.\n\n"
        "- Use a dictionary to count how many times each number appears.\n"
        "- Go through the original list again and keep only the numbers whose count is exactly 1.\n"
        "- The order of the kept elements must stay the same as in the input, so we build a new list instead of "
        "sorting.\n\n"
        "Both passes are O(n), and the dictionary takes O(n) space."
    ),
    "maze": (
        "The grid is an unweighted graph, so the shortest path can be found with a breadth-first search. Put the start "
        "cell into a queue with distance 0 and mark it as visited. Repeatedly pop a cell from the front of the queue, "
        "and for each of its four neighbours that lies inside the grid, is not a wall and has not been visited, set "
        "its distance and push it to the back of the queue. If the target cell is never reached, print -1. Every cell "
        "enters the queue at most once, which gives O(n * m)."
    ),
    "password": (
        "The password has to satisfy several conditions at once. Its length must be at least 6 and at most 12. It must "
        "contain at least one lowercase letter, one uppercase letter, one digit and one of the characters $, # and @. "
        "It must not contain whitespace. Check the conditions one after another and return False at the first "
        "violation. If every check passes, return True."
    ),
    "coins": (
        "Let $dp[x]$ be the number of ways to form the sum $x$. Initially $dp[0] = 1$ and all other values are 0. "
        "Process the coins one by one; for a coin $c$, iterate $x$ from $c$ to $n$ in increasing order and add "
        "$dp[x - c]$ to $dp[x]$. Going upwards allows a coin to be used several times, and having the coins in the "
        "outer loop makes sure that the order of the coins does not matter. All values are taken modulo $10^9 + 7$. "
        "The complexity is $O(nk)$, where $k$ is the number of coins."
    ),
    "kth": (
        "We maintain a min-heap that holds the k largest elements seen so far. For every new element, push it onto the "
        "heap, and if the size of the heap exceeds k, pop the smallest element. After all elements are processed, the "
        "root of the heap is the k-th largest element. Each operation on the heap costs O(log k), so the total is "
        "O(n log k). It is guaranteed that 1 <= k <= n."
    ),
    "rolling": (
        "1. Initialize an empty result list and a variable for the running maximum.\n"
        "2. Iterate over the numbers from left to right.\n"
        "3. If the current number is greater than the running maximum, update the running maximum.\n"
        "4. Append the running maximum to the result list.\n"
        "5. If the input list is empty, return an empty list."
    ),
    "jobs": (
        "This is the classical interval scheduling problem. Sort the intervals by their end time and greedily take "
        "each interval whose start is not earlier than the end of the last one taken. An exchange argument shows that "
        "the interval that ends earliest can always be part of an optimal solution. Up to 2 * 10^5 intervals are "
        "given, so an O(n log n) solution is fast enough. Touching endpoints are allowed: an interval may start "
        "exactly when the previous one ends."
    ),
    "pairs": (
        "Let me think about how to check for two distinct positions that sum to zero. While traversing the list, I "
        "keep a set of the numbers seen so far. For each number x, I check whether -x is already in the set; if it is, "
        "return True. Otherwise I add x to the set and continue. It is important to check before adding, so that a "
        "single zero is not paired with itself. If the traversal finishes, return False. Set lookups take constant "
        "time on average, so the whole algorithm runs in linear time and uses O(n) space."
    ),
    "halves": (
        "Count the letters. If any count is odd, print -1, since two equal halves are impossible. Otherwise print half "
        "of each letter."
    ),
}


def marked(text: str, edit: Edit) -> str:
    """The change with two words around it: "in [ascending -> descending] order, then"."""
    before, after = text[max(0, edit.start - 60) : edit.start].split()[-2:], text[edit.end :].split()[:2]
    return " ".join([*before, f"[{text[edit.start : edit.end]} -> {edit.text}]", *after])


def edits(text: str, kind: str, problem: str = "") -> list[Edit]:
    """Every edit that may make a flaw of a kind."""
    prose = Prose.read(text, problem)
    both = [list(itertools.chain(*way(prose))) for way in (WAYS[kind].first, WAYS[kind].second)]
    return both[0] + both[1] if WAYS[kind].turned else both[0] or both[1]
