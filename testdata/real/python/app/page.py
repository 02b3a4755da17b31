"""Makes the page."""

import markdown

TEXT = """# Casks {version}

- rendered by *{user}*
"""


def render(version: str, user: str) -> str:
    """The page as HTML."""
    return markdown.markdown(TEXT.format(version=version, user=user))
