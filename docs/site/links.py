"""Lets links from the site to files outside of docs lead to the repository."""

import posixpath
import re

LINK = re.compile(r"(\]\()\.\./([^)\s]+)(\))")
# Comments that tell the tests what to run.
COMMENT = re.compile(r"<!-- (?:first|not run):.*?-->\n?", re.S)


def on_page_markdown(markdown, page, config, files):
    base = posixpath.join(config["repo_url"], "blob/main/")
    return LINK.sub(lambda link: link[1] + base + link[2] + link[3], COMMENT.sub("", markdown))
