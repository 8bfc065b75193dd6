"""Rule `boilerplate`: what sites print around texts goes, the texts and all that only looks like it stay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules.boilerplate import strip_boilerplate, without_chrome
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, Dropped, Texts

SETTLED = settings(deadline=None, derandomize=True)
STORY = (
    "春天来了，花开了。\n小草绿了，鸟儿在唱歌。\n孩子们在公园里跑来跑去，老人坐在长椅上晒太阳，谁也没有看见河边的那条小船。\n"
    + "天黑以后风停了，月亮从山后面慢慢升起来。" * 6
)
TALE = (
    "The wind rose before dawn.\nNobody in the village heard the bell.\nBy noon the boats were gone, and so was he.\n"
    + "They waited. " * 12
    + "Then the rain came."
)


def outcome(text: str, **rules: float) -> Changed | Dropped | None:
    return strip_boilerplate(Texts([text]), CleanRules(**rules)).get(0)


CHROME = [
    "Copyright © 2007-2016 Example LLC. All rights reserved.",
    "© 2020 Example Inc.",
    "All Rights Reserved.",
    "We use cookies to improve your experience. By continuing to use this site you accept our use of cookies.",
    "Home | About us | Products | Contact",
    "Home » Blog » Winter",
    "Skip to main content",
    "Log in or register to post comments",
    "Subscribe to our newsletter for weekly updates!",
    "Share this article on Facebook",
    "Read more »",
    "Page 2 of 14",
    "Previous post: The storm",
    "Please enable JavaScript to view this page.",
    "JavaScript is required to use this site.",
    "Powered by WordPress",
    "Leave a comment",
    "ADVERTISEMENT",
    "Download our free app",
    "This email and any attachments are confidential and intended solely for the addressee.",
    "Sent from my iPhone",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "版权所有 © 2020 未经授权不得转载",
    "京ICP备12345678号-1",
    "转载请注明出处",
    "转载请注明出处：http://www.example.com/a",
    "未经本站书面授权不得转载",
    "责任编辑：李四",
    "【责任编辑：李四】",
    "上一篇：冬天来了",
    "下一篇：没有了",
    "上一章 目录 下一章",
    "首页 > 新闻 > 正文",
    "您现在的位置：首页 >> 新闻中心",
    "首页 新闻 体育 财经 科技",
    "扫码关注微信公众号",
    "长按识别二维码关注我们",
    "分享到：微信 微博 QQ空间",
    "阅读全文",
    "点击这里查看更多",
    "登录后才能发表评论",
    "免责声明：本文来自网络，如有侵权请联系删除。",
    "凡本网注明来源的作品，转载须经授权。",
    "本章未完，请点击下一页继续阅读",
    "本网站使用cookies以提升您的体验。",
    "您的浏览器不支持JavaScript",
    "【字体：大 中 小】",
]


@pytest.mark.parametrize("line", CHROME)
@pytest.mark.parametrize("text", [STORY, TALE])
def test_chrome_before_and_behind_a_text_goes(line: str, text: str):
    """In both languages, at both ends, and nothing else with it."""
    for dirty in (f"{line}\n{text}", f"{text}\n\n{line}\n", f"标题\n{line}\n\n{text}\n{line}"):
        found = outcome(dirty)
        assert isinstance(found, Changed)
        assert found.text in (text, f"标题\n{text}", f"标题\n\n{text}")
        assert outcome(found.text) is None


KEPT = {
    "sentences with the words": "Log in to the machine and read more about it.\n"
    "She did not log in. The copyright is his, and he reserved all rights in it.",
    "HTTP": "Cookies\n\nA cookie is a name and a value. "
    "The server sets cookies with Set-Cookie; login sessions use them.",
    "an API": "subscribe(topic)\n\nSubscribe to a topic and call back.\n\n"
    "login(user)\n\nLog in a user.\n\nregister(name)",
    "a PEP": "Abstract\n========\n\nThis PEP is about lines.\n\n"
    "Copyright\n=========\n\nThis document has been placed in the public domain.",
    "a licence": "MIT License\n\nCopyright (c) 2020 Tom Smith. All rights reserved.\n\n"
    "Permission is hereby granted, free of charge, to any person.",
    "a program": "# Copyright 2020 Google LLC. All rights reserved.\n#\nimport os\n\nprint(os.name)\n// Read more\n",
    "an English poem": "Home\n\nHome again, home again,\nHome to the sea,\n"
    "Home where the north wind\nIs waiting for me.",
    "a Chinese poem": "登鹳雀楼\n白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。",
    "a play": "JULIET:\nO Romeo, Romeo!\n\nROMEO:\nShall I hear more, or shall I speak at this?\n\nNext.\n",
    "a Markdown list": "The site has\n\n- Home\n- About\n- Login\n- Contact\n\nas pages.",
    "a Markdown table": "| Home | About | Contact |\n|---|---|---|\n| a | b | c |",
    "a fence": "An example:\n\n```\nHome | About | Contact | Login\nCopyright © 2020 X. All rights reserved.\n```",
    "headings": "关于我们\n\n我们是一家小店，卖书，也卖咖啡。\n\n联系方式\n\n每天下午都可以来店里坐坐。",
    "a paragraph cut into lines": "Archive Foundation, how to help produce new books, and how to\n"
    "subscribe to our email newsletter to hear about new books.",
    "a novel": "他说：“转载请注明出处，否则责任编辑要生气的。”\n众人都笑了，纷纷点击阅读全文。",
    "readings": "推荐阅读：\n\n- [一篇文章](http://example.com)\n- [又一篇](http://example.com)",
    "a source quoted": "> **原文地址**：<https://example.com>\n\n今天聊聊绩效考核，谈谈它背后的逻辑以及潜规则。",
    "empty": "",
}


@pytest.mark.parametrize("name", KEPT)
def test_texts_that_use_the_same_words_stay(name: str):
    """Copyright, cookies, logins and menus are things people write about, in code and poems too."""
    assert outcome(KEPT[name]) is None


def test_a_single_line_in_the_middle_stays_and_a_run_goes():
    """One line may be a quotation; three of them in a row were pasted with the page."""
    lines = [f"This is the sentence number {number} of a long report." for number in range(30)]
    middle = "\n".join([*lines[:15], "Read more »", *lines[15:]])
    assert outcome(middle) is None
    run = "\n".join([*lines[:15], "Read more »", "Share this article", "Leave a comment", *lines[15:]])
    assert outcome(run) == Changed("\n".join(lines))


def test_menus_of_single_words_go_at_the_ends_only():
    """Four words of menus below each other at an end are one; in the middle they may be headings."""
    menu = "首页\n新闻\n登录\n注册\n"
    assert outcome(menu + STORY) == Changed(STORY)
    assert outcome(f"{STORY}\n{menu}{STORY}") is None


def test_a_list_of_teasers_loses_its_links():
    """Where every other line is `read more`, the lines are the site's pattern, wherever they stand."""
    teasers = "\n".join(f"第{n}条新闻的标题在这里，后面还有一句话。\n阅读全文" for n in "一二三四五六七八九十")
    found = outcome(teasers)
    assert isinstance(found, Changed) and "阅读全文" not in found.text and found.text.count("\n") == 9


def test_a_text_that_is_mostly_chrome_is_dropped():
    """The share and the setting are in the detail; with a higher limit the rest is kept."""
    text = "短讯一条\n" + "\n".join(CHROME[-20:])
    found = outcome(text)
    assert isinstance(found, Dropped) and found.reason == "boilerplate"
    assert "max_boilerplate_share is 0.75" in found.detail
    assert outcome(text, max_boilerplate_share=1.0) == Changed("短讯一条")
    assert isinstance(outcome("Home | About | Contact\n© 2020 Example Inc.", max_boilerplate_share=0.99), Dropped)


def test_a_book_loses_the_licence_around_it():
    """What Project Gutenberg prints before and behind a book is in thousands of books; the book stays."""
    book = (
        "The Project Gutenberg EBook of Alice, by Lewis Carroll\nTitle: Alice\n\n"
        f"*** START OF THIS PROJECT GUTENBERG EBOOK ALICE ***\n\n\n{TALE}\n\n\n"
        "End of Project Gutenberg’s Alice, by Lewis Carroll\n\n*** END OF THIS PROJECT GUTENBERG EBOOK ALICE ***\n"
        + "Section 1. General Terms of Use and Redistributing Project Gutenberg-tm works.\n"
        * 40
    )
    assert outcome(book) == Changed(TALE)
    assert outcome(f"He worked for Project Gutenberg.\n{TALE}") is None


def test_texts_do_not_depend_on_their_batch():
    """The gate looks at all lines of a batch as one array; borders between texts must hold."""
    texts = [f"{line}\n{STORY}" for line in CHROME] + list(KEPT.values()) + CHROME
    together = strip_boilerplate(Texts(texts), CleanRules())
    assert dict(together) == {index: found for index, text in enumerate(texts) if (found := outcome(text))}


PIECES = [
    *CHROME,
    "Home",
    "登录",
    "Contact",
    STORY,
    TALE,
    "```",
    "    ",
    "* ",
    "> ",
    "Copyright",
    "\n",
    "\n\n",
    "\x00",
    "\ud800",
]


@SETTLED
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=10), max_size=20).map("\n".join) | st.text())
def test_any_text_is_cleaned_and_cleaned_once(text: str):
    """What is left after lines went must hold no more of them, or every rerun would make another corpus."""
    found = outcome(text)
    if isinstance(found, Changed):
        assert outcome(found.text) is None


@SETTLED
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=10), max_size=20).map("\n".join))
def test_the_gate_hides_no_line_of_chrome(text: str):
    """The gate over the first characters of all lines only saves work: without it the same texts would change."""
    assert (outcome(text) is None) == (without_chrome(text) == text)


@pytest.mark.parametrize("lead", ["", "*", "--", "【 《", "—— · "])
@pytest.mark.parametrize("end", ["", "\n", " |"])
def test_the_gate_sees_chrome_behind_decoration(lead: str, end: str):
    """Up to six signs of decoration are looked past, at the beginning and at the end of a batch too."""
    batch = [line for chrome in CHROME for line in (f"{lead}{chrome}{end}", "x")]
    found = strip_boilerplate(Texts(batch), CleanRules())
    assert [index for index, text in enumerate(batch) if without_chrome(text) != text] == sorted(found)
    assert sum(index % 2 == 0 for index in found) > 0.8 * len(CHROME)


def test_rulers_below_each_other_take_no_quadratic_time():
    """A table drawn of dashes has thousands of lines without a letter; a quadratic step would stop this test."""
    text = "\n".join([*["Some words."] * 10, *["-"] * 200_000, *["More words."] * 10, "© 2020 Example Inc."])
    assert isinstance(outcome(text), Changed)


def test_a_notice_of_rights_below_its_heading_stays():
    """Manuals of Perl end with a section of that name: it is part of the manual."""
    text = "The module opens a door.\n\n=head1 COPYRIGHT\n\nCopyright 1998-2002 Jane Roe.\n\n=cut"
    assert outcome(text) is None
