"""Words of plans whose exchange makes a step wrong: tables of algorithms, of steps and of data structures.

An exchange is only made where it matters. Depth-first search finds connected components as well as breadth-first search
does, so the two are exchanged only where distances are asked for.
"""

from tracelift_jax.groups.code_swaps import Swap, pair, swap

_SORTABLE = r"(?:array|list|numbers|elements|values|integers|strings|words|items|candidates|pairs|points|tuples)"
# What makes the order of a sorted list matter.
_ORDERED = (
    r"two pointers|binary search|\b(?:smallest|largest|minimum|maximum|leftmost|rightmost|median|greed\w+)\b|k-th|kth"
    r"|(?:first|last) (?:element|k\b|one|item|word)|index \d"
)
_DISTANCES = r"\bshort(?:est)?\b|\bfewest|\bdistance|\bnearest|\bminimum number|\bleast number|\blevel|\blayer"

ALGORITHMS: tuple[Swap, ...] = (
    *pair("ascending", "descending", r"\bin (?:\w+ )?{} order\b", unless="anagram"),
    *pair("increasing", "decreasing", r"\bin (?:\w+ )?{} order\b", unless="anagram"),
    *pair("increasing", "decreasing", r"\b{} (?:stack|queue)\b"),
    *pair("non-decreasing", "non-increasing", r"\bin {} order\b"),
    *pair("nondecreasing", "nonincreasing", r"\bin {} order\b"),
    swap(
        rf"\bsort (?:both |all )?(?:of )?(?:the|these|its|this|our) (?:\w+ ){{0,2}}?{_SORTABLE}"
        r"(?= first\b| and\b|[,.;]|$)",
        r"\g<0> in descending order",
        unless=r"ascending|descending|creasing|\bby\b|order|anagram",
        needs=_ORDERED,
    ),
    swap(r"\b(by (?:(?:their|its|the|increasing) )*)start(ing)?\b", r"\1end\2", unless=r"\bby (?:\w+ ){0,3}end"),
    swap(
        r"\b(by (?:(?:their|its|the|increasing) )*)(?:end|finish)(ing)?\b",
        r"\1start\2",
        unless=r"\bby (?:\w+ ){0,3}start",
    ),
    swap(r"\bbreadth-first search\b", "depth-first search", unless=r"\bdepth|DFS", needs=_DISTANCES),
    swap(r"\bBFS\b", "DFS", unless=r"\bdepth|DFS", needs=_DISTANCES),
    swap(
        r"\bdepth-first search\b",
        "breadth-first search",
        unless=r"\bbreadth|BFS",
        needs=r"backtrack|post-?order|finish",
    ),
    swap(r"\bDFS\b", "BFS", unless=r"\bbreadth|BFS", needs=r"backtrack|post-?order|finish"),
    swap(r"\bDijkstra's algorithm\b", "breadth-first search", unless=r"\bbreadth|BFS", needs="weight|cost|length"),
    swap(r"\bDijkstra\b(?!')", "BFS", unless=r"\bbreadth|BFS", needs="weight|cost|length"),
    swap(r"\bBellman[-–]Ford(?: algorithm)?\b", "Dijkstra's algorithm", unless="Dijkstra"),
    swap(r"\b(?:Kruskal|Prim)'s algorithm\b", "Dijkstra's algorithm", unless="Dijkstra"),
    swap(r"\bdynamic programming\b(?! (?:table|array|state))", "greedy selection", unless="greed"),
    swap(r"\bwith (memoi[sz]ation|caching)\b", r"without any \1"),
    swap(
        r"\bbinary search\b(?! tree)",
        "ternary search",
        needs=r"feasibl|monoton|\banswer\b|possible|\bsorted\b|smallest|largest|(?:first|last) (?:position|index)",
    ),
    swap(r"\b(the|their|its|whose|running|current|prefix|that|new) sum(s?)\b", r"\1 product\2", unless="product|zero"),
    swap(r"\b(the|their|its|running|current|prefix) product(s?)\b", r"\1 sum\2", unless=r"\bsum"),
    *pair("greatest common divisor", "least common multiple"),
    *pair("gcd", "lcm"),
    swap(r"(?-i:\bXOR\b)", "OR", unless=r"(?-i:\bOR\b)"),
    *pair("bitwise and", "bitwise or"),
    *pair("union", "intersection", r"\b{} of\b", unless="disjoint|union[- ]find"),
    swap(r"\bin-?order\b(?= traversal)", "pre-order"),
    swap(r"\bpost-?order\b(?= traversal)", "pre-order"),
    swap(r"\bpre-?order\b(?= traversal)", "post-order"),
    swap(r"\btopological order\b", "reverse topological order", unless="reverse"),
    *pair("smallest", "largest", unless="biggest"),
    *pair("minimum", "maximum", r"\b{}\b(?!-| heap| spanning)", unless=r"\bmin\b|\bmax\b|\bO\("),
    *pair("minimal", "maximal"),
    *pair("min", "max", r"\b{}(?=\()"),
    *pair("longest", "shortest"),
    *pair("earliest", "latest"),
    *pair("highest", "lowest"),
    *pair("most frequent", "least frequent"),
    swap(
        r"\bone at the (start|beginning|left end)((?: of (?:the|each) [\w ]+?)?),? and (?:one|the other) at the "
        r"(?:right )?end\b",
        r"both at the \1\2",
    ),
    swap(r"\bone pointer at the (\w+) and (?:one|the other) at the \w+\b", r"both pointers at the \1"),
    swap(r"(\bdp\[[^\]=]*?)( ?)-( ?)(\d|\w)\]", r"\1\2+\3\4]"),
)
"""Exchanges of the algorithm, or of what it looks for."""

_LEFTWARDS = (
    r"first (?:occurrence|index|position|time|non|unique|repeat|char)|next (?:greater|smaller)|carry|\bstack\b|append"
)
_NUMBER = r"(?:total|sum|count|counter|result|answer|balance|score|accumulator)"

_CONDITIONAL = r"\b(?:if|while|when|whenever|until|whether)\b"

STEPS: tuple[Swap, ...] = (
    *pair("greater", "less", r"\b{} than\b", unless="fewer|smaller|larger"),
    *pair("larger", "smaller", r"\b{} than\b", unless="greater|less"),
    *pair("increment", "decrement", r"\b{}(?= (?:the|it|its|a|this|our|[`$\w]+ by)\b)"),
    *pair("increase", "decrease", r"\b{} (?:it|the|its|this)\b"),
    swap(r"\bmultiply\b(?=[^.;]* by\b)", "divide", unless="divi"),
    swap(r"\bdivide\b(?=[^.;]* by\b)", "multiply", unless="multipl|divisib"),
    swap(
        rf"\badd ([^.;,]{{1,40}}?) to ((?:the|a|our|its) (?:\w+ )?{_NUMBER})\b",
        r"subtract \1 from \2",
        unless="subtract",
    ),
    swap(
        rf"\bsubtract ([^.;,]{{1,40}}?) from ((?:the|a|our|its) (?:\w+ )?{_NUMBER})\b", r"add \1 to \2", unless=r"\badd"
    ),
    *pair("plus", "minus"),
    *pair("even", "odd", r"\b(?:is|are) {}\b"),
    *pair("even", "odd", r"\b{} (?:number|digit|index|indices|position|element|value|count)\b"),
    *pair("vowel", "consonant", r"\b{}s?\b"),
    *pair("opening", "closing", r"\b{} (?:bracket|parenthes)"),
    *pair("uppercase", "lowercase", unless="convert|turn|make|ignor|insensitive"),
    swap(r"\b(is|are) divisible by\b", r"\1 not divisible by", unless="not divisible"),
    swap(r"\b(is|are) not divisible by\b", r"\1 divisible by", unless="(?:is|are) divisible"),
    swap(r"\bthey are equal\b", "they are different", unless="differ"),
    swap(r"\bthey differ\b", "they are equal", unless="equal|match|same"),
    swap(r"\b(is|are) equal to\b", r"\1 different from", unless=r"differ|or equal|\bnot\b"),
    swap(r"\b(is|are) different\b(?! from)", r"\1 the same", unless=r"equal|same|match"),
    *pair("true", "false", r"\breturn [`$]*(?:\\text\w*\{)?{}\b"),
    *pair("yes", "no", r"""\b(?:print|output|return)s? ["'`]{}\b"""),
    *pair("before", "after", r"\b{} (?=\w+ing\b|the (?:loop|scan|sort|pass|traversal|iteration)\b)"),
    swap(r"\bleft to right\b", "right to left", unless="right to left", needs=_LEFTWARDS),
    swap(r"\bright to left\b", "left to right", unless="left to right"),
    swap(r"\btop to bottom\b", "bottom to top", unless="bottom to top", needs=r"\bdp\b|table"),
    *pair("left", "right", r"\bto the {}(?=[,.;]| by| of| until| while|$)"),
    *pair("left", "right", r"\bmov(?:e|ing) (?:the )?`?{}\b(?! to)"),
    *pair("left", "right", r"\b(?:the|its) `?{}`? (?:pointer|end|half|part|subtree|boundary)\b"),
    *pair("prefix", "suffix", r"\b{}\b(?! (?:sum|product|max|min|expression|notation|form))"),
    *pair("first", "last", r"\b(?:return|take|keep|print|output|find|remember)s? the {}\b(?! row| two| column)"),
    *pair("last", "first", r"\bthe {} digit\b"),
    *pair(
        "all",
        "any",
        r"\b(?:if|whether) {}(?= (?:the |of the )?\w+s\b)",
        unless="processed|checked|visited|been|done",
    ),
    swap(r"\b(if|whether) every\b", r"\1 some"),
    *pair("rounded up", "rounded down"),
    *pair("floor", "ceiling", r"\bthe {} of\b"),
    *pair("remainder", "quotient"),
    swap(r"\breverse the\b", "sort the", unless="sort"),
    swap(r"\bsquare root\b", "cube root"),
    swap(r"(?<=[\w)\]] )>(?= [a-z(])", "<", unless="<", beside=_CONDITIONAL),
    swap(r"(?<=[\w)\]] )<(?= [a-z(])", ">", unless=">", beside=_CONDITIONAL),
    swap(rf"({_CONDITIONAL} [^,.;:]{{1,50}}? (?:is|are|does|do|has|have))(?: not|n't)\b", r"\1", unless="otherwise"),
    swap(
        r"\b((?:if|while|when|whenever|until) (?!no\b)[^,.;:]{1,50}? (?:is|are))\b"
        r"(?! (?:not|no|also|still|never|already)\b)",
        r"\1 not",
        unless=r"\bnot\b|n't|otherwise|processed|finished|visited|reached|\bdone\b|complete|exhausted|\bleft\b"
        r"|\bmet\b|\bover\b|equal to|than|\bat (?:most|least)|\bor\b",
    ),
    swap(r"\bin reverse order\b", "in the original order"),
    *pair("leading", "trailing", r"\b{} (?:space|zero|blank|white)"),
    *pair("backwards from the last", "forwards from the first"),
)
"""Exchanges within a step: what is compared, counted, returned, and which way it goes."""

_COUNTED = r"count|occur|frequen|how many|how often|number of|\bindex|\bindices"
_REPEATED = r"duplicate|distinct|unique|only once|\bsize\b|different"
_USED = r"\b(?:us|push|pop|put|keep|hold|stor|maintain|add|tak|remember|need)"
_FAST = r"constant|O\(1\)|O\(n\)|linear"

DATA_STRUCTURES: tuple[Swap, ...] = (
    *pair("min", "max", r"\b{}[- ]heap"),
    *pair("minimum", "maximum", r"\b{}[- ]heap"),
    swap(r"\bpriority queue\b", "plain queue"),
    swap(r"(?<!call )(?<!recursion )\bstack\b(?! overflow)", "queue", unless="queue", beside=_USED),
    swap(
        r"(?<!priority )\bqueue\b",
        "stack",
        unless=r"stack|\benqueue|\bfront\b|\bback\b",
        beside=_USED,
        needs=_DISTANCES,
    ),
    swap(r"\bpush ([^.;,]{1,40}?) (?:onto|on|to|into) (the|a|this) (stack|heap|queue)\b", r"pop \1 from \2 \3"),
    swap(r"\bpop (it|the (?:top|smallest|largest|minimum|maximum|root|last)(?: \w+)?)(?=[,.;]|$)", r"peek at \1"),
    swap(
        r"\b(the|its) top\b(?= of the stack| must| is\b| does)",
        r"\1 bottom",
        unless="bottom|single|final|result|answer",
    ),
    swap(r"\b(from|at) the front of the queue\b", r"\1 the back of the queue", unless=r"\bback\b"),
    swap(r"\b(to|at) the back of the queue\b", r"\1 the front of the queue", unless=r"\bfront\b"),
    swap(r"\broot of the heap\b", "last element of the heap", unless=r"\blast\b"),
    swap(
        r"\b(a|the) (?:dictionary|hash ?map|hash ?table|map|(?-i:Counter))\b(?! (?:from|of|that|whose|with|mapping))",
        r"\1 set",
        unless=r"\bset\b",
        beside=_COUNTED,
    ),
    swap(r"\b(a|the) (?:hash )?set\b(?! (?:of|union))", r"\1 list", unless=r"\blist\b|\bto 0", beside=_REPEATED),
    swap(r"\bthe set of\b", "the list of", unless=r"\blist\b", beside=_REPEATED),
    swap(r"\ba (?:hash )?set of\b", "a list of", unless=r"\blist\b", needs=_FAST),
    swap(r"\b(in|into|to) a set\b", r"\1 a list", unless=r"\blist\b", beside=_FAST),
    swap(
        r"\b(maps?|mapping|mapped|map from|dictionary from|mapping from) ((?:each |every )?)(\w+) to ((?:its |their )?)"
        r"(\w+)\b",
        r"\1 \2\5 to \4\3",
    ),
    swap(r"\b(a|the|as) key\b", r"\1 value", unless=r"\bvalue|sort", beside=r"dictionar|\bmap|hash|table"),
    swap(
        r"\bappend ([^.;,]{1,40}?) to (the|a|our|its) (\w+(?: (?:list|array|string))?)\b",
        r"insert \1 at the front of \2 \3",
        unless="front|prepend",
    ),
    swap(
        r"\badd ([^.;,]{1,25}?) to (the|a|our|this) (\w+ )?(set|queue|heap|dictionary|map)\b",
        r"remove \1 from \2 \3\4",
        unless="remov",
    ),
    swap(r"\bmark (it|them|the \w+(?: \w+)?) as visited\b", r"leave \1 unmarked"),
    swap(
        r"\binto a (single |new |flat )?list\b",
        r"into a \1set",
        unless=r"\bset\b",
        needs=_COUNTED + "|order|duplicate",
    ),
    *pair("next", "previous", r"\b{} (?:pointer|node)", needs="linked list"),
    *pair("head", "tail", r"\bthe {}\b", needs="linked list"),
    *pair("parent", "child"),
    *pair("outgoing", "incoming"),
    *pair("in-degree", "out-degree"),
    *pair("indegree", "outdegree"),
    *pair("row", "column", r"\b(?:the|each|every|same|a) {}\b", unless="rows|columns"),
    *pair("rows", "columns", unless=r"\brow\b|\bcolumn\b"),
    swap(r"\bat index (\d)\b", lambda match: f"at index {int(match[1]) + 1}"),
)
"""Exchanges of a data structure, of what it holds or of what is done to it."""
