"""Rule `html`: pages become their text, crumbs of markup go, and what is written about HTML stays to the letter."""

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules import markup
from minimind.data.rules.html import _outcome, unwrap_html
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, Dropped, Texts

SETTLED = settings(deadline=None, derandomize=True)


def outcome(text: str) -> Changed | Dropped | None:
    return unwrap_html(Texts([text]), CleanRules()).get(0)


def unwrapped(text: str) -> str:
    found = outcome(text)
    assert isinstance(found, Changed), found
    assert outcome(found.text) is None, "the rule must find nothing in its own output"
    return found.text


PAGE_ZH = """<!DOCTYPE html>
<html lang="zh"><head><title>标题 - 网站</title><style>.a{color:red}</style><script>var a="<p>不</p>";</script></head>
<body class="has-sidebar">
<header><a href=/>标志</a><ul class=menu><li><a href=/a>首页</a><li><a href=/b>新闻</a></ul></header>
<div id="content">
  <div class="breadcrumb"><a href="/">首页</a> &gt; <a href="/n">新闻</a> &gt; 正文</div>
  <h1>春天来了</h1>
  <p>春天来了，<b>花</b>开了&hellip;&hellip;小草
     绿了。&nbsp;鸟儿在唱歌。</p>
  <ul><li>苹果</li><li>香蕉 <i>黄</i></li><li><p>梨</p></ul>
  <table><tr><th>名字</th><th>年龄</th></tr><tr><td>汤姆</td><td>3</td></tr></table>
  一行。<br>又一行<br/><br/>隔了一行
  <!-- 注释 --><div class=share-bar><a href=#>微信</a> <a href=#>微博</a></div>
  <div style="display:none">看不见</div>
</div>
<aside>旁边</aside><form action=/s><input name=q><button>搜索</button></form>
<footer>&copy; 2020 某网站</footer>
<script>track()</script>
</body></html>"""
TEXT_ZH = """春天来了
春天来了，花开了……小草绿了。 鸟儿在唱歌。
- 苹果
- 香蕉 黄
- 梨
名字 | 年龄
汤姆 | 3
一行。
又一行

隔了一行"""
PAGE_EN = """<nav><a href="/">Home</a> | <a href="/a">About</a></nav>
<article><header><h1>On Tags</h1></header>
<p>He said: <a href="x">see
  this</a>, and 3 &lt; 5 &amp;&amp; H<sub>2</sub>O is not x<sup>2</sup>.</p>
<ol><li>one<li>two</ol>
<pre><code class="language-html">&lt;div&gt;
    a &amp;amp; b
&lt;/div&gt;</code></pre>
<p>Use <code>&lt;br&gt;</code> for a line.</p></article>
<div class="footer">Contact | <a href="/sitemap.xml">Sitemap</a></div>"""
TEXT_EN = """On Tags
He said: see this, and 3 < 5 && H₂O is not x².
1. one
2. two
```
<div>
    a &amp; b
</div>
```
Use `<br>` for a line."""
GOLDEN = {
    "a Chinese page": (PAGE_ZH, TEXT_ZH),
    "a piece of an English page": (PAGE_EN, TEXT_EN),
    "upper case, no quotes, no end tags": (
        "<HTML><BODY BGCOLOR=#FFF><CENTER><FONT SIZE=5>Old page</FONT></CENTER>\n<P ALIGN=left>First\nstill first\n"
        "<P>Second <A HREF=f.html>link</A> here.<HR></BODY></HTML>",
        "Old page\nFirst still first\nSecond link here.",
    ),
    "begins inside a tag": (
        '="x" class="lead">第一段的后半句。</p>\n<p>第二段文字在这里。</p>\n<p>第三段</p></div></body>',
        "第一段的后半句。\n第二段文字在这里。\n第三段",
    ),
    "begins inside a table": ("<td>一</td><td>二</td></tr><tr><td>三</td><td>四</td></tr></table>", "一 | 二\n三 | 四"),
    "tags over several lines": (
        '<div\n class="x"><p\n>The text of <b\n>this</b> page.</p></div><P\n>Second.</P>',
        "The text of this page.\nSecond.",
    ),
    "XHTML": (
        '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x.dtd">\n'
        '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>t</title></head><body><p>正文内容。</p></body></html>',
        "正文内容。",
    ),
    "AMP": (
        "<amp-img src=x></amp-img><p>Text of the page.</p><amp-ad type=x></amp-ad><p>More.</p>",
        "Text of the page.\nMore.",
    ),
    "WordPress": (
        '<!-- wp:paragraph --><p>[caption id="a"]A boat[/caption] by the river.</p><!-- /wp:paragraph -->',
        "A boat by the river.",
    ),
    "escaped": (
        '&lt;div class="x"&gt;&lt;p&gt;Tom &amp;amp; Jerry.&lt;/p&gt;&lt;p&gt;Two.&lt;/p&gt;&lt;/div&gt;',
        "Tom & Jerry.\nTwo.",
    ),
    "escaped twice": (
        "&amp;lt;p&amp;gt;第一段。&amp;lt;/p&amp;gt;&amp;lt;p&amp;gt;第二段。&amp;lt;/p&amp;gt;",
        "第一段。\n第二段。",
    ),
    "a poem with line breaks": (
        '<div align="center">静夜思<br />李白<br /><br />\n床前明月光，<br />\n疑是地上霜。</div>',
        "静夜思\n李白\n\n床前明月光，\n疑是地上霜。",
    ),
    "a poem in <pre>": (
        "<p>Song</p><pre>\n  Roses are red\n    violets blue\n</pre>",
        "Song\n  Roses are red\n    violets blue",
    ),
    "a layout of cells": (
        "<table><tr><td><h2>Head</h2><p>Body one.</p></td><td><p>Body two.</p></td></tr></table>",
        "Head\nBody one.\nBody two.",
    ),
    "a form around the page": (
        '<form id="aspnetForm"><div><p>老式网站用表单包住整个网页，正文不能因此丢掉。</p></div></form>',
        "老式网站用表单包住整个网页，正文不能因此丢掉。",
    ),
    "a footer class around a whole text": (f'<div class="footer">{"很长的正文。" * 200}</div>', "很长的正文。" * 200),
    "a line per paragraph keeps its blanks": (
        "<p>def f(x):</p>\n<p>    return  x</p>\n<br/>\n<p>f(1)</p>",
        "def f(x):\n    return  x\n\nf(1)",
    ),
    "crumbs in Chinese prose": (
        '第一段文字。<br>第二段，<b>重点</b>在这里。<br/>\n第三段&nbsp;<a href="http://x.y">链接</a>。\n最后 a < b 。',
        "第一段文字。\n第二段，重点在这里。\n第三段 链接。\n最后 a < b 。",
    ),
    "crumbs in English prose": (
        "It was a long way from the town to the river, and nobody had come.\n  An indented line of <i>it</i>.\n"
        '"No," she said&nbsp;&mdash; "never!"\nThe end, a line longer than the others, came soon.',
        "It was a long way from the town to the river, and nobody had come.\n  An indented line of it.\n"
        '"No," she said&nbsp;&mdash; "never!"\nThe end, a line longer than the others, came soon.'.replace(
            "&nbsp;", " "
        ).replace("&mdash;", "—"),
    ),
    "entities in prose": (
        "Tom &amp; Jerry said &quot;hi&quot; &#8212; it&#39;s&nbsp;fun.",
        'Tom & Jerry said "hi" — it\'s fun.',
    ),
    "menus around plain text with code": (
        '<nav><a href="/">首页</a></nav>\n<script src="t.js"></script>\n'
        "第一行  #include <stdio.h>\n\n    第二行 List<String>\n"
        '正文的第三行，这是比较长的一行文字。\n<div class="footer"><a href="/">网站地图</a></div>',
        "第一行  #include <stdio.h>\n\n    第二行 List<String>\n正文的第三行，这是比较长的一行文字。",
    ),
    "menus around Markdown": (
        '<div class="navbar"><a href="/">Home</a></div>\n# Title\n\nUse `<b>` and **bold**.\n\n'
        '<div class="tip">x</div>\n\nMore.\n<footer>© 2020</footer>',
        '# Title\n\nUse `<b>` and **bold**.\n\n<div class="tip">x</div>\n\nMore.',
    ),
    "BBCode": (
        "[b]标题[/b]\n[size=3][color=red]正文内容在这里。[/color][/size]\n[url=http://a.b]链接[/url]的后面\n"
        "[img]http://x/y.jpg[/img]\n[quote]引用的话[/quote]好的",
        "标题\n正文内容在这里。\n链接的后面\n\n引用的话\n好的",
    ),
}
KEPT = {
    "talk of tags": "The <b> tag makes text bold, and a <p> tag starts a paragraph. Use <br> tags sparingly.",
    "talk of tags, Chinese": "在 HTML 中，<div> 标签是块级元素。例如 <b>粗体</b> 会加粗，<br> 换行。",
    "talk of entities": "Write &amp; for an ampersand in HTML, and &lt;b&gt; for a tag.",
    "talk of BBCode": "In BBCode, [b]bold[/b] and [i]italics[/i] are written with brackets.",
    "Java": "Map<String, List<Integer>> m = new HashMap<>();\nfor (int i = 0; i < n && j > 0; i++) { List<S> a; }",
    "C++": "#include <vector>\nstd::vector<int> v;\ntemplate <typename T> T f(T a) { return a<b && c>d; }",
    "comparison": "If a<b and c>d, then x <i> y. We know p<q r>s; AT&T has R&D.",
    "addresses": "Write to Tom <tom@example.org> or see <https://example.org/x>, with <your name> as <title>.",
    "reStructuredText": "Example\n=======\n\nA page::\n\n    <html>\n      <body><p>Hi</p></body>\n"
    "    </html>\n\nThat was it.",
    "fence": "A tutorial:\n\n```html\n<!DOCTYPE html>\n<html><body><p>x</p></body></html>\n```\n\nDone.",
    "tildes": "一个例子：\n\n~~~html\n<div><p>x</p></div>\n~~~\n\n完。",
    "indented block": 'Put this into it:\n\n    <div class="a">\n      <p>x</p>\n    </div>\n\nThen reload.',
    "backticks": "把它放进 `<div><p>x</p></div>` 里，然后保存。",
    "Markdown with tags": '# Logo\n\n<p align="center">\n  <img src="logo.png" width=100>\n</p>\n'
    "\nPress <kbd>Ctrl</kbd>.\n\n- run `x`\n",
    "notation": "Water is H<sub>2</sub>O, and press <kbd>Ctrl</kbd>+<kbd>C</kbd> to stop it.",
    "JSX": 'function App() {\n  return (\n    <div className="app">\n      <h1>Hi</h1>\n'
    "      <p>{text}</p>\n    </div>\n  );\n}",
    "Vue": "<template>\n  <div><p>{{ x }}</p></div>\n</template>\n<script>\nexport default {}\n</script>",
    "Jinja": "<!doctype html>\n<ul>\n{% for x in xs %}\n  <li>{{ x.name }}</li>\n{% endfor %}\n</ul>",
    "PHP": '<?php foreach ($a as $b): ?>\n<p><?= $b ?></p>\n<?php endforeach; ?>\n<div class="x"><?= $c ?></div>',
    "Python": 'def page():\n    html = "<div>"\n    html += "<p>hello</p>"\n    return html + "</div>"\n',
    "Javadoc": "/**\n * Returns <b>x</b>.\n * <p>\n * More <code>y</code>.\n */\nint f();",
    "XML": '<?xml version="1.0"?>\n<note><to>Tove</to><from>Jani</from><body>Hi</body></note>',
    "diff": "diff --git a/x b/x\n@@ -1,2 +1,2 @@\n-<p>old</p>\n+<p>new</p>\n <div>\n",
    "shell": 'cat < in.txt > out.txt 2>&1 && echo "<b>" | sort',
    "quoted mail": "Hi,\n\n> <p>old</p>\n> <div>x</div>\n\nthanks",
    "translation strings": '<a href="%(base)s/a.zip">Download</a> (%(size)s MiB)\n'
    '<a href="%(base)s/b.zip">Download</a>',
    "empty": "",
    "one": "<",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_markup_becomes_the_text_a_reader_sees(name: str):
    """Whole pages, half pages, broken pages and crumbs: what remains is what a person would copy."""
    before, after = GOLDEN[name]
    assert unwrapped(before) == after


@pytest.mark.parametrize("name", KEPT)
def test_text_about_markup_stays_to_the_letter(name: str):
    """A model that is to write HTML, Java and Markdown must have read them; their signs are the text."""
    assert outcome(KEPT[name]) is None


@pytest.mark.parametrize(
    "page",
    [
        "<ul>" + "".join(f'<li><a href="/tag/{i}">Tag {i}</a></li>' for i in range(20)) + "</ul>",
        '<div><script>x()</script><style>a{}</style></div><!-- 1 --><a id="top"></a>',
        'We use cookies to improve. By continuing you accept our cookies. <a href="/c">More</a> <button>OK</button>\n'
        "<footer>Copyright</footer>",
        '首页 &gt; 产品中心 &gt; 详情 <a href="#">加入购物车</a> <a href="#">立即购买</a>'
        " 客服热线：400 <span>关注微信公众号</span>\n"
        '<div class="footer">版权所有 &copy; 2020 | <a href="/s">网站地图</a></div>',
    ],
)
def test_a_page_of_nothing_but_chrome_is_dropped(page: str):
    """Menus, scripts and notices teach nothing; such a row is counted and explained."""
    found = outcome(page)
    assert isinstance(found, Dropped) and found.reason == "html_page" and "characters" in found.detail


def test_a_page_about_tags_is_not_unwrapped_twice():
    """Decoding makes the tags of its text look like markup; a second run must not take them for it."""
    page = "<p>The &lt;div&gt; tag and the &lt;p&gt; tag are HTML elements.</p><p>Close with &lt;/div&gt;.</p>"
    assert unwrapped(page) == "The <div> tag and the <p> tag are HTML elements.\nClose with </div>."


def test_wrapping_a_text_in_a_page_loses_nothing():
    """Whatever the text is, also Markdown, templates and code: escaped into a page, it comes out whole."""
    for text in KEPT.values():
        lines = [line for line in text.split("\n") if line.strip()]
        if len("".join(lines)) > 20:
            body = "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)
            assert unwrapped(f'<html><body><nav><a href="/">Home</a></nav>{body}</body></html>') == "\n".join(
                line.rstrip() for line in lines
            )


NESTED = {
    "open elements": ("<div>" * 50_000 + "x", None),
    "paragraphs without an end": ("<p>" * 50_000 + "x", Changed("x")),
    "open comments": ("<!--" * 50_000, None),
    "open comments before crumbs": (
        "<!--" * 50_000 + "\nIt was late.<br>\nHe went <b>home</b>.\nHe slept.",
        Changed("<!--" * 50_000 + "\nIt was late.\nHe went home.\nHe slept."),
    ),
    "open scripts": ("<script>" * 50_000, None),
    "entities": ("&lt;" * 100_000, Changed("<" * 100_000)),
    "BBCode": ("[code]" * 30_000 + "[/b]", None),
}


@pytest.mark.parametrize("name", NESTED)
def test_nesting_and_unclosed_openings_take_no_quadratic_time(name: str):
    """One page of a hundred thousand open tags must not stop a corpus: a quadratic step would stop this test too."""
    text, becomes = NESTED[name]
    assert outcome(text) == becomes


def test_a_control_character_written_as_an_entity_stops_nothing():
    """`&#6;` is one of the marks the walk over a page writes into its output; from the page it must not come."""
    assert unwrapped("<p>one &#6;word</p><pre>a  b</pre><p>&#6;0&#6;</p>") == "one word\na  b\n0"


def test_an_empty_class_stops_nothing():
    """Generators of pages write `class=""` for no class at all."""
    assert outcome("# Title\n\nText.\n\n<div class=\"\" id=''>a picture</div>") is None
    assert unwrapped('# Title\n\nText.\n\n<div class="" id="footer">Contact</div>') == "# Title\n\nText."


def test_texts_do_not_depend_on_their_batch():
    """The batch is a matter of speed: the same outcome alone and among others."""
    texts = [before for before, _ in GOLDEN.values()] + list(KEPT.values())
    together = unwrap_html(Texts(texts), CleanRules())
    assert dict(together) == {index: found for index, text in enumerate(texts) if (found := outcome(text))}


_TAGS = (
    "<p> </p> <div> </div> <ul> <li> </ul> <b> </b> <br> <br/> <!-- --> <script> </script> <pre> </pre> <code> </code>"
    " <table> <tr> <td> </td> </table> <nav> </nav> </footer> &lt;p&gt; &lt;/p&gt; &amp;lt;b&amp;gt; &amp;lt;/b&amp;gt;"
    ' &amp; &nbsp; &#10; &#60; ` ``` # - * Home 首页 a 这是一句话。 [b] [/b] [code] {{ }} HTML < > " = <!doctype'
    " <html> <body> <title> <sub> </sub> <h1> <form> </"
)
PIECES = [
    *_TAGS.split(" "),
    "\n",
    "\n\n",
    " ",
    "    ",
    '<a href="x">',
    "</a>",
    '<div class="nav">',
    "\ud800",
    "\x00",
    "\x02",
    "\x06",
]


@SETTLED
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text())
def test_any_text_is_judged_and_judged_once(text: str):
    """Broken markup is the rule, not the exception: no crash, and nothing more to find in what was kept."""
    found = outcome(text)
    if isinstance(found, Changed):
        assert outcome(found.text) is None


def test_stray_comments_go_from_prose_and_stay_in_text_about_them():
    """`<!-- begin -->` around an article is left over from a page; in Markdown, code or a lesson it is somebody's."""
    assert unwrapped("<!-- begin article 7 -->\n船来了。\n大家都去看。\n<!-- /content -->") == "船来了。\n大家都去看。"
    lesson = "<!-- a note -->\nThe line above is a comment in HTML markup."
    page = "# Title\n\n<!-- toc -->\n\n- one\n- two"
    code = "<!-- head -->\nx = 1\ny = f(x)"
    assert [outcome(text) for text in (lesson, page, code)] == [None, None, None]


def test_a_drawing_stays():
    """SVG is data: HTML knows some of its elements, yet no page is around them."""
    drawing = '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="16"><g fill="#474747">'
    assert (
        outcome(drawing + '<path d="M8 4.846v10.38l-2.344-2.288-1.34 2.734z"/><style>a{b:c}</style></g></svg>') is None
    )


SIGNS = (
    "# |```|~~~|:::|](http:|---|--|.. note::|{#id}|``x``|:ref:`x`|**b**|`b`|- |* i|![|](|@@ -1|diff --git a|Index: |@@"
    "|tag|tags|html|escaped|attr\u0131bute|ent\u0130ty|\u017fvg|标签|dom|stage|:| |\n|a|1|转义|=>|};|x = 1|)|=|f(x)"
)


@SETTLED
@given(st.lists(st.sampled_from([*PIECES, *SIGNS.split("|")]), max_size=12).map("".join))
def test_no_quick_look_hides_anything(text: str):
    """Counts of characters and literals only save work: without them the same would be found."""
    assert outcome(text) == _outcome(text)
    assert markup.speaks_of_markup(text) == bool(markup._TALK.search(text))
    assert markup._has_markdown(text) == bool(markup._MARKDOWN.search(text))
    assert markup._is_diff(text) == bool(markup._DIFF.search(text))
    signs = markup._has_any(markup._LIGHT_SIGNS, text)
    assert signs or not markup._LIGHT_MARKDOWN.search(text)
