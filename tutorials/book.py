"""`make tutorials`: runs every tutorial as a notebook and puts them together as a book of static pages.

    python tutorials/book.py --out build/tutorials     # index.html opens from the disk, without a network
    python tutorials/book.py --readme                  # the table of README.md anew, from the title cells

    OUT/index.html          contents: what each teaches, minutes, what to know before
    OUT/NN_name.html        a page per tutorial; OUT/solutions/ likewise; OUT/source/ the code they link to
    OUT/notebooks/          the executed notebooks
    OUT/runs.json           seconds and number of asserts of each

Mathematics becomes MathML when the book is built, so a page needs no script. Its font comes along.
"""

import argparse
import ast
import base64
import html
import importlib.resources
import json
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CELL_SECONDS = 300  # a cell that takes longer is stopped, and the book fails
TABLE = re.compile(r"(?<=<!-- order -->\n).*?(?=<!-- end -->)", re.DOTALL)


class BookError(Exception):
    """A tutorial that does not run, or a page that cannot be made, in a few lines of text."""


@dataclass(frozen=True)
class Page:
    """A tutorial or a solution, and what its title cell says."""

    path: Path  # of the script
    title: str
    teaches: str  # Markdown
    minutes: int  # to read
    before: str  # what to know before, Markdown

    @property
    def name(self):
        """Path below tutorials/ without the suffix."""
        return self.path.relative_to(HERE).with_suffix("").as_posix()

    @property
    def asserts(self):
        return count_asserts(self.path.read_text())


def title_cell(text):
    """Title, what it teaches, minutes and what to know before, from the first Markdown cell of a script.

    # # 5. Depthwise convolution
    #
    # Minutes: 20. Before: [4. Pointwise](04_pointwise.py).
    #
    # What it teaches: the first two sentences go into the table of contents.
    """
    cell = re.split(r"^# %%.*$", text, flags=re.MULTILINE)[1]
    markdown = "\n".join(line.removeprefix("#").removeprefix(" ") for line in cell.strip().splitlines())
    title, _, rest = markdown.strip().partition("\n")
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", rest.strip())]
    facts = re.fullmatch(r"Minutes: (\d+)\. Before: (.+)\.", paragraphs[0])
    if not title.startswith("# ") or not facts or len(paragraphs) < 2:
        raise BookError(f"the title cell is not of the form in README.md:\n{markdown}")
    teaches = " ".join(re.split(r"(?<=[.?!]) (?=[A-Z])", paragraphs[1])[:2])
    return title.removeprefix("# "), teaches, int(facts[1]), facts[2]


def count_asserts(text):
    """Asserts in a script: statements, numpy.testing's functions, and bugs that must be caught."""
    calls = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    names = [getattr(function, "attr", getattr(function, "id", "")) for function in calls]
    statements = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text)))
    return statements + sum(name.startswith("assert_") or name == "fails" for name in names)


def pages(folder=HERE):
    """The pages of a folder of scripts, in the order of their numbers."""
    found = []
    for path in sorted(folder.glob("[0-9][0-9]_*.py")):
        try:
            found.append(Page(path, *title_cell(path.read_text())))
        except BookError as error:
            raise BookError(f"{path}: {error}") from None
    return found


def order_table(tutorials):
    """The table of README.md."""
    lines = ["| | what it teaches | minutes | before |", "|---|---|---|---|"]
    for page in tutorials:
        lines.append(
            f"| [{page.title}]({page.path.name}) | {page.teaches} | {page.minutes} | {page.before} |"
        )
    return "\n".join(lines) + "\n"


def run(page):
    """Execute a script as a notebook. Returns it and the seconds that it took."""
    import jupytext
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = jupytext.read(page.path)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as sockets:  # ports could be taken by another kernel's
        where = {"transport": "ipc", "ip": f"{sockets}/kernel"} if os.name == "posix" else {}
        client = NotebookClient(
            notebook,
            km=AsyncKernelManager(**where),
            startup_timeout=CELL_SECONDS,
            timeout=CELL_SECONDS,
            resources={"metadata": {"path": page.path.parent}},
            coalesce_streams=True,
        )
        try:
            client.execute(cleanup_kc=True)  # ends the kernel
        except (CellExecutionError, CellTimeoutError, DeadKernelError, RuntimeError) as error:
            plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
            raise BookError(f"{page.name} failed:\n{plain}") from None
    return notebook, time.monotonic() - started


# From a notebook to a page.


def mathematics(latex, display):
    """LaTeX as MathML."""
    from math_core import LatexError, LatexToMathML

    try:
        mathml = LatexToMathML(fancy_error=False).convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        raise BookError(f"no MathML for {latex} ({error})") from None
    return mathml.replace("<math", f'<math alttext="{html.escape(latex)}"', 1)


def markdown_renderer():
    """Markdown to HTML with tables, headings that can be linked to, and mathematics."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.anchors import anchors_plugin
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    renderer = MarkdownIt("commonmark", {"typographer": False}).enable("table")
    renderer.use(anchors_plugin, max_level=3)
    renderer.use(
        dollarmath_plugin,
        renderer=lambda latex, options: mathematics(latex.strip(), options["display_mode"]),
        allow_labels=False,
        double_inline=True,
    )
    return renderer


def code(source):
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(source, PythonLexer(), HtmlFormatter(cssclass="code"))


class Writer:
    """Writes the pages of a book into a folder."""

    def __init__(self, out, tutorials, solutions, whole=True):
        self.out = out
        self.whole = whole  # otherwise links to tutorials may lead nowhere
        self.tutorials = tutorials
        self.solutions = {page.path.name: page for page in solutions}
        self.markdown = markdown_renderer()
        self.sources = set()  # files of the repository that pages link to

    def tutorial(self, page, notebook):
        """The page of a tutorial or of a solution, from its executed notebook."""
        body = "\n".join(self._cell(page, i, cell) for i, cell in enumerate(notebook.cells))
        up = "../" * page.name.count("/")
        if up:  # a solution
            links = [f'<a href="{up}{page.path.stem}.html">back to the exercises</a>']
        else:
            links = self._neighbours(page)
            if page.path.name in self.solutions and f'"solutions/{page.path.name}"' not in body:
                body += f'\n<p><a href="solutions/{page.path.stem}.html">Solutions to the exercises</a></p>'
        about = f"{page.minutes} minutes to read; {page.asserts} asserts"
        self._write(f"{page.name}.html", page.title, self._links(body, page.path.parent, up), links, about)

    def index(self):
        rows = []
        for page in self.tutorials:
            cells = (
                f'<a href="{page.name}.html">{html.escape(page.title)}</a>',
                *(
                    self._links(self.markdown.renderInline(text), HERE, "")
                    for text in (page.teaches, page.before)
                ),
            )
            rows.append(
                f'<tr><th scope="row">{cells[0]}</th><td>{cells[1]}</td>'
                f"<td>{page.minutes} min</td><td>{cells[2]}</td></tr>"
            )
        total = sum(page.minutes for page in self.tutorials)
        body = (
            "<h1>A speech denoiser, step by step</h1>\n"
            "<p>From a waveform to a trained, streaming denoiser, one component at a time. Each tutorial derives "
            "its part by hand, writes it in a few lines of NumPy, checks it against the library, and breaks it on "
            "purpose to see the check fail.</p>\n"
            f"<p>{len(self.tutorials)} tutorials, {total} minutes to read, "
            f"{sum(page.asserts for page in self.tutorials)} asserts.</p>\n"
            '<div class="wide"><table class="contents"><thead><tr><th>tutorial</th><th>what it teaches</th>'
            f"<th>time</th><th>before</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )
        self._write("index.html", "Contents", body, [], "")

    def source_pages(self):
        """The files of the repository that pages link to, as pages."""
        while self.sources:
            path = self.sources.pop()
            name = path.relative_to(ROOT).as_posix()
            target = f"source/{name}.html"
            if (self.out / target).exists():
                continue
            up = "../" * target.count("/")
            if path.is_dir():
                files = "".join(f"<li>{file.name}</li>" for file in sorted(path.glob("*.py")))
                body = f"<h1>{name}</h1><ul>{files}</ul>"
            elif path.suffix == ".md":
                body = self.markdown.render(path.read_text())
            else:
                body = f"<h1>{name}</h1>{code(path.read_text())}"
            self._write(target, name, self._links(body, path.parent, up), [], "")

    def assets(self):
        """Style sheet and font."""
        from pygments.formatters import HtmlFormatter

        style = (HERE / "book.css").read_text() + HtmlFormatter(style="friendly").get_style_defs(".code")
        (self.out / "book.css").write_text(style)
        font = importlib.resources.files("ziamath.fonts") / "STIXTwoMath-Regular.ttf"
        (self.out / "STIXTwoMath-Regular.ttf").write_bytes(font.read_bytes())

    def _cell(self, page, number, cell):
        if cell.cell_type == "markdown":
            try:
                return f"<section>{self.markdown.render(cell.source)}</section>"
            except BookError as error:
                raise BookError(f"{page.name}: {error}") from None
        shown = [self._output(page, f"{number}-{i}", output) for i, output in enumerate(cell.outputs)]
        source = code(cell.source) if cell.source.strip() else ""
        return source + (f'<div class="output">{"".join(shown)}</div>' if shown else "")

    def _output(self, page, number, output):
        if output.output_type == "stream":
            return f'<pre class="{output.name}">{html.escape(output.text)}</pre>'
        if "image/png" in output.data:
            figure = self.out / "figures" / f"{page.name.replace('/', '-')}-{number}.png"
            figure.parent.mkdir(exist_ok=True)
            figure.write_bytes(base64.b64decode(output.data["image/png"]))
            alt = html.escape(output.metadata.get("image/png", {}).get("alt", "figure"))
            link = "../" * page.name.count("/") + f"figures/{figure.name}"
            return f'<a class="figure" href="{link}"><img src="{link}" alt="{alt}"></a>'
        if "text/html" in output.data:
            return output.data["text/html"]
        return f"<pre>{html.escape(output.data['text/plain'])}</pre>"

    def _links(self, body, folder, up):
        """Point links at tutorials and at files of the repository to their pages."""

        def mend(match):
            link, hash_, anchor = html.unescape(match[1]).partition("#")
            path = (folder / link).resolve()
            if link and (path / "__init__.py").is_file():
                path /= "__init__.py"  # of a package, its table of contents
            if not link or link.startswith(("http:", "https:", "data:")) or link.endswith((".html", ".png")):
                return match[0]
            if not self.whole and path.parent == HERE:
                return match[0]
            if not path.exists() or not path.is_relative_to(ROOT):
                raise BookError(f"link to {link}: no such file in {folder}")
            if path.parent in (HERE, HERE / "solutions") and path.name[:2].isdigit():
                target = path.relative_to(HERE).with_suffix(".html").as_posix()
            else:
                self.sources.add(path)
                target = f"source/{path.relative_to(ROOT).as_posix()}.html"
            return f'href="{up}{target}{hash_}{anchor}"'

        return re.sub(r'href="([^"]*)"', mend, body)

    def _neighbours(self, page):
        place = self.tutorials.index(page)
        links = []
        if place > 0:
            before = self.tutorials[place - 1]
            links.append(f'<a rel="prev" href="{before.name}.html">← {html.escape(before.title)}</a>')
        if place + 1 < len(self.tutorials):
            after = self.tutorials[place + 1]
            links.append(f'<a rel="next" href="{after.name}.html">{html.escape(after.title)} →</a>')
        return links

    def _write(self, name, title, body, links, about):
        up = "../" * name.count("/")
        contents = "" if name == "index.html" else f'<a href="{up}index.html">Contents</a>'
        navigation = f"<nav>{contents}{''.join(links)}</nav>"
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<link rel="icon" href="data:,"><link rel="stylesheet" href="{up}book.css"></head>\n'
            f"<body>{navigation}\n<main>{body}</main>\n<footer><p>{about}</p></footer>{navigation}</body></html>\n",
            encoding="utf-8",
        )


def build(out, tutorials, solutions, jobs=2, whole=True):
    """Run all scripts, `jobs` at a time, and write the book.

    Raises
    ------
    BookError : what failed, all of it; an earlier book stays as it was
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / "book.css").exists():
        raise BookError(f"{out}: holds something that is not a book; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    everything = [*tutorials, *solutions]
    runs, failures = {}, []

    def attempt(page):
        try:
            return run(page)
        except BookError as error:
            return error

    with tempfile.TemporaryDirectory(dir=out.parent) as folder, ThreadPoolExecutor(jobs) as pool:
        new = Path(folder) / "book"
        (new / "notebooks" / "solutions").mkdir(parents=True)
        writer = Writer(new, tutorials, solutions, whole)
        for page, result in zip(everything, pool.map(attempt, everything)):
            if isinstance(result, BookError):
                failures.append(str(result))
                print(f"{page.name}: FAILED", flush=True)
                continue
            notebook, seconds = result
            runs[page.name] = {"seconds": round(seconds, 1), "asserts": page.asserts}
            print(f"{page.name}: {seconds:.1f} s, {page.asserts} asserts", flush=True)
            try:
                write_notebook(notebook, new / "notebooks" / f"{page.name}.ipynb")
                writer.tutorial(page, notebook)
            except BookError as error:
                failures.append(str(error))
        if failures:
            raise BookError("\n\n".join(failures))
        writer.index()
        writer.source_pages()
        writer.assets()
        (new / "runs.json").write_text(json.dumps(runs, indent=1))
        if out.exists():
            shutil.rmtree(out)
        new.replace(out)


def write_notebook(notebook, path):
    import nbformat

    nbformat.write(notebook, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=ROOT / "build" / "tutorials", help="folder of the book")
    parser.add_argument("--only", nargs="*", help="numbers of the tutorials to build, such as 05 06")
    parser.add_argument("--jobs", type=int, default=2, help="scripts that run at the same time")
    parser.add_argument("--readme", action="store_true", help="only write the table of README.md anew")
    arguments = parser.parse_args()
    try:
        tutorials, solutions = pages(), pages(HERE / "solutions")
        if arguments.readme:
            readme = HERE / "README.md"
            readme.write_text(TABLE.sub(lambda _: order_table(tutorials), readme.read_text()))
            return 0
        if arguments.only:
            tutorials, solutions = (
                [page for page in some if page.path.name[:2] in arguments.only]
                for some in (tutorials, solutions)
            )
        build(arguments.out, tutorials, solutions, arguments.jobs, whole=not arguments.only)
    except BookError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"open {Path(arguments.out) / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
