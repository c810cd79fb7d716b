"""The words of English captions as the COCO server counts them, without Java.

The server runs Stanford's PTB tokenizer (3.4.1) in lower case and drops punctuation; this does the
same by rules: contractions and possessives are split (`do n't`, `man 's`), brackets become `-lrb-`
and the like (which the server forgets to drop, and so is counted), hyphenated words, numbers, dates
and abbreviations stay whole. It differs in smileys, tags and rarer abbreviations; what was recorded
of the server's is in `tests/fixtures/coco`. Other scripts keep their words, and lose their
punctuation, too.
"""

import unicodedata

import regex

# What ends in a full stop that belongs to it.
ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr prof gov sen rep gen col lt sgt capt cmdr adm maj rev hon pres st mt ft jr sr esq
    inc co corp ltd bros dept univ assn vs etc jan feb mar apr jun jul aug sep sept oct nov dec mon
    tue tues wed thu thurs fri sat sun ave blvd rd hwy est ala ariz calif colo conn fla ga ill ind
    kan md mich minn mo neb okla ore pa tenn tex va wash wis al alex wm jos cie messrs mmes
    """.split()  # noqa: SIM905
)
CONTRACTION = regex.compile(r"(n't|'(?:s|re|ve|ll|d|m))$")
JOINED = {
    "cannot": "can not",
    "gonna": "gon na",
    "wanna": "wan na",
    "gotta": "got ta",
    "lemme": "lem me",
    "gimme": "gim me",
    "'tis": "'t is",
    "'twas": "'t was",
    "y'all": "y' all",
    "rock'n'roll": "rock 'n' roll",
}
CHARACTERS = {
    **dict.fromkeys("“”„«»″", '"'),
    **dict.fromkeys("‘’‛`´′", "'"),
    **dict.fromkeys("—–", " -- "),
    "…": "...",
    "½": " 1/2 ",
    "¼": " 1/4 ",
    "¾": " 3/4 ",
    "¢": " cents ",
    "£": "#",
    "€": "$",
}
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
TOKEN = regex.compile(
    r"""
      (?:https?://|www\.)\S*[^\s.,!?;:)"']
    | [\w.+-]+@\w[\w-]*(?:\.[\w-]+)+
    | (?:[^\W\d_]\.){2,} | ph\.d\.                       # u.s., p.m.
    | (?<!\w)-?(?:\.\d++|\d++(?:[.,]\d++)*+)(?!\w|[-/:.]\w)  # -5, .5, 1,000
    | \d+\.\d+(?=[^\W\d])                                # of 1.3m
    | '(?:tis|twas)\b | '\d\ds\b | 'n' | '(?:s|re|ve|ll|d|m)\b | n't\b
    | c\+\+
    # Words, with what joins them.
    | [\w\p{M}]+(?:(?:[-/&.]|(?<=[^\W\d])'(?=[^\W\d])|(?<=\d)[,:](?=\d))[\w\p{M}]+)*
    | [!?]{2,} | \.{3} | --+
    | [^\w\s]
    """,
    regex.VERBOSE | regex.IGNORECASE,
)
DROPPED = frozenset(['"', "'", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def tokenize(text: str) -> list[str]:
    """The words of a caption, in lower case, without punctuation."""
    for old, new in (CHARACTERS | ENTITIES).items():
        text = text.replace(old, new)
    tokens = []
    for match in TOKEN.finditer(text):
        token, end = match[0], match.end()
        if token.lower() in ABBREVIATIONS or (len(token) == 1 and token.isupper()):
            token += "." * text.startswith(".", end) * (not text.startswith("..", end))
        elif token.lower() == "no" and regex.match(r"\. ?\d", text[end:]):
            token += "."
        tokens += _parts(token.lower())
    return [BRACKETS.get(token, token) for token in tokens if not _is_dropped(token)]


def _is_dropped(token: str) -> bool:
    """English punctuation that the server drops, and that of other scripts."""
    other = len(token) == 1 and not token.isascii() and unicodedata.category(token)[0] == "P"
    return other or token in DROPPED


def _parts(token: str) -> list[str]:
    """A word without its contractions, and these."""
    if token in JOINED:
        return JOINED[token].split()
    parts: list[str] = []
    while (match := CONTRACTION.search(token)) and match.start():
        parts.insert(0, match[0])
        token = token[: match.start()]
    return [token, *parts]
