"""Code blocks and links of README.md and the pages of docs/."""

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = (README, *sorted(DOCS.glob("**/*.md")))


@dataclass(frozen=True)
class Block:
    """A fenced code block; a first line such as `# my_lab.py` or `# cells.yaml` gives it a file name."""

    page: str  # path relative to the repository
    line: int  # of the first line of code
    language: str
    text: str

    @property
    def file_name(self) -> str | None:
        name = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return name.group(1) if name else None

    @property
    def location(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str, pages: tuple[Path, ...] = PAGES) -> list[Block]:
    """Code blocks in the given languages, in page order."""
    return [block for page in pages for block in _blocks_of(page) if block.language in languages]


def commands(pages: tuple[Path, ...] = PAGES) -> list[tuple[str, str]]:
    """(location, command) per command of the bash blocks; continuation lines are joined, comments removed."""
    found = []
    for block in blocks("bash", pages=pages):
        for line in block.text.replace("\\\n", " ").splitlines():
            command = re.split(r"(?:^|\s)#", line)[0].strip()
            if command:
                found.append((block.location, command))
    return found


def block_with(words: str) -> Block:
    """The only YAML or Python block that contains `words`."""
    (found,) = [block for block in blocks("yaml", "python") if words in block.text]
    return found


def links(page: Path) -> list[str]:
    """Targets of the links of a page to files of the repository, without `#section`."""
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
