"""The blocks of code in README.md and in the pages of docs/."""

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = (README, *sorted(DOCS.glob("**/*.md")))


@dataclass(frozen=True)
class Block:
    """A fenced block of code. One whose first line is `# my_lab.py` or `# cells.yaml` is the file of that name."""

    page: str  # path from the root of the repository
    line: int  # of its first line of code
    language: str
    text: str

    @property
    def file_name(self) -> str | None:
        name = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return name.group(1) if name else None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str, pages: tuple[Path, ...] = PAGES) -> list[Block]:
    """The blocks in these languages, in the order of the pages."""
    return [block for page in pages for block in _blocks_of(page) if block.language in languages]


def commands(pages: tuple[Path, ...] = PAGES) -> list[tuple[str, str]]:
    """(place, command) of each command line in a bash block; continued lines are one, comments are left out."""
    found = []
    for block in blocks("bash", pages=pages):
        for line in block.text.replace("\\\n", " ").splitlines():
            command = re.split(r"(?:^|\s)#", line)[0].strip()
            if command:
                found.append((block.place, command))
    return found


def block_with(words: str) -> Block:
    """The only block of YAML or Python that contains `words`."""
    (found,) = [block for block in blocks("yaml", "python") if words in block.text]
    return found


def links(page: Path) -> list[str]:
    """The targets of the links of a page that lead to files of the repository, without `#section`."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def _blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=str(page.relative_to(REPOSITORY)),
            line=text.count("\n", 0, match.start(2)) + 1,
            language=match.group(1),
            text=match.group(2),
        )
        for match in re.finditer(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    ]
