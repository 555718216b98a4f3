"""Numbers as people read them, and the template environment of cards and reports."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from fusion.publish.facts import STAGE_TITLES, Score


def thousands(value: float) -> str:
    """12345 -> "12,345"."""
    return f"{value:,.0f}"


def millions(value: float) -> str:
    """Parameter counts: 2,345,678 -> "2.3 M", 5.09e9 -> "5.09 B"."""
    if value >= 1e9:
        return f"{value / 1e9:.2f} B"
    return f"{value / 1e6:.1f} M" if value >= 1e5 else f"{value / 1e3:.0f} k"


def percent(value: float) -> str:
    """A share of 1 as a percentage with one digit, without the sign: 0.8543 -> "85.4"."""
    return f"{value * 100:.1f}"


def score(value: Score) -> str:
    """An accuracy with its interval in percent: "85.4 (83.9-86.8)"."""
    return f"{percent(value.accuracy)} ({percent(value.low)}\N{EN DASH}{percent(value.high)})"


def signed(value: Score) -> str:
    """A difference in points with its interval: "+18.2 (16.0 to 20.1)"."""
    return f"{value.accuracy * 100:+.1f} ({value.low * 100:+.1f} to {value.high * 100:+.1f})"


def seconds(value: float) -> str:
    """A duration: "0.8 s", "42 s", "6 min 05 s", "3 h 20 min"."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(value: float) -> str:
    """Bytes: "512 MB", "3.4 GB"."""
    return f"{value / 2**30:.1f} GB" if value >= 2**30 else f"{value / 2**20:.0f} MB"


def templates() -> Environment:
    """The environment of fusion/publish/templates: HTML is escaped, an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("fusion.publish"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "thousands": thousands, "millions": millions, "percent": percent, "score": score, "signed": signed,
        "seconds": seconds, "memory": memory, "stage_title": STAGE_TITLES.__getitem__,
    }  # fmt: skip
    return environment
