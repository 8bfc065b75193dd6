"""Every text of the page, in English and Chinese, in one table.

A text may have fields in braces, the same in both languages. Not here: what servers and models say, which is shown as
it is, and errors about imported rows, which quote their data.
"""

from collections.abc import Callable, Sequence
from typing import Literal

Language = Literal["en", "zh"]
Say = Callable[..., str]

LANGUAGES: dict[Language, str] = {"en": "English", "zh": "中文"}

WORDS: dict[str, tuple[str, str]] = {
    # conversations
    "new_chat": ("New chat", "新对话"),
    "conversations": ("Conversations", "对话"),
    "untitled": ("New chat", "新对话"),
    "more": ("Conversation menu", "对话菜单"),
    "rename": ("Rename", "重命名"),
    "name": ("Title", "标题"),
    "cancel": ("Cancel", "取消"),
    "delete": ("Delete", "删除"),
    "delete_sure": ("Delete “{title}” for good?", "确定永久删除“{title}”？"),
    "delete_yes": ("Yes, delete", "确定删除"),
    "export_markdown": ("Export as Markdown", "导出为 Markdown"),
    "export_row": ("Export as a training row (JSONL)", "导出为训练数据（JSONL）"),
    "import": ("Import conversations", "导入对话"),
    "import_help": (
        'A JSONL file; each line a row like {{"conversations": […]}}',
        '一个 JSONL 文件，每行形如 {{"conversations": […]}}',
    ),
    "imported": ("Imported {count}", "已导入 {count} 个对话"),
    "damaged": (
        "A conversation's file was damaged. It was set aside as {name} and not deleted.",
        "有一个对话文件已损坏，已另存为 {name}，没有删除。",
    ),
    "gone": ("This conversation is not there any more.", "该对话已不存在。"),
    # settings
    "model": ("Model", "模型"),
    "second_model": ("Second model", "第二个模型"),
    "compare": ("Compare two models", "对比两个模型"),
    "compare_help": ("Both answer the same question, side by side.", "两个模型并排回答同一个问题。"),
    "continue_text": ("Continue text", "续写文本"),
    "continue_help": (
        "The model goes on from your text itself. For pretrained models, which do not chat.",
        "模型直接续写你的文本。适用于不会对话的预训练模型。",
    ),
    "about_model": ("About the model", "模型信息"),
    "sampling": ("Sampling", "采样"),
    "temperature": ("Temperature", "温度"),
    "temperature_help": ("0 always takes the likeliest token.", "0 表示总是选择概率最高的词元。"),
    "top_p": ("Top-p", "Top-p"),
    "top_p_help": ("Keep the likeliest tokens that reach this probability.", "只保留累计概率达到该值的词元。"),
    "top_k": ("Top-k", "Top-k"),
    "top_k_help": ("Keep so many likeliest tokens; 0 keeps all.", "只保留概率最高的若干个词元；0 表示不限。"),
    "min_p": ("Min-p", "Min-p"),
    "min_p_help": (
        "Leave out tokens below this share of the likeliest one's probability.",
        "去掉概率低于最高概率乘以该值的词元。",
    ),
    "repetition_penalty": ("Repetition penalty", "重复惩罚"),
    "repetition_penalty_help": ("Above 1, used tokens become less likely.", "大于 1 时，用过的词元更不易出现。"),
    "presence_penalty": ("Presence penalty", "存在惩罚"),
    "presence_penalty_help": ("Against tokens that were used at all.", "抑制已经出现过的词元。"),
    "frequency_penalty": ("Frequency penalty", "频率惩罚"),
    "frequency_penalty_help": ("Against tokens, by how often they were used.", "按出现次数抑制词元。"),
    "max_tokens": ("Longest answer, in tokens", "回答的最大词元数"),
    "seed": ("Seed", "随机种子"),
    "seed_help": ("Same seed, same answers. Empty for chance.", "种子相同则回答相同；留空为随机。"),
    "system": ("System prompt", "系统提示词"),
    "system_hint": ("Tell the model who it is.", "告诉模型它的角色。"),
    "tools": ("Tools (JSON)", "工具（JSON）"),
    "tools_hint": ("A list of functions in OpenAI's format.", "OpenAI 格式的函数列表。"),
    "tools_wrong": (
        "Not used: this is no JSON list of functions ({why}).",
        "未启用：这不是函数的 JSON 列表（{why}）。",
    ),
    "language": ("Language", "语言"),
    # asking and answering
    "ask": ("Ask something", "输入你的问题"),
    "ask_text": ("Begin a text", "写下文本的开头"),
    "ask_result": ("Result of {name}", "{name} 的返回结果"),
    "answering": ("Answering …", "正在回答……"),
    "stop": ("Stop", "停止"),
    "greeting": ("What would you like to know?", "想聊点什么？"),
    "greeting_more": ("Answered by {model}", "由 {model} 回答"),
    "example_1": ("Write a short poem about autumn", "写一首关于秋天的短诗"),
    "example_2": ("Explain recursion with an example", "用一个例子解释递归"),
    "example_3": ("介绍一下你自己", "Introduce yourself in English"),
    "copy": ("Copy", "复制"),
    "copied": ("Copied", "已复制"),
    "regenerate": ("Answer again", "重新回答"),
    "edit": ("Edit; what followed is kept as a version", "编辑；之后的内容会保留为另一版本"),
    "edit_question": ("Your message", "你的消息"),
    "ask_again": ("Ask again", "重新提问"),
    "older": ("Older version", "上一版本"),
    "newer": ("Newer version", "下一版本"),
    "go_on": ("Go on with this one", "用这个继续"),
    "goes_on": ("The conversation goes on with this one", "对话从这里继续"),
    "thought": ("Thoughts", "思考过程"),
    "thinking": ("Thinking …", "思考中……"),
    "call": ("Calls {name}", "调用 {name}"),
    "tool_result": ("Result of the tool", "工具的返回结果"),
    "you": ("You", "你"),
    "assistant": ("Assistant", "助手"),
    # captions
    "stopped": ("stopped", "已停止"),
    "finish_stop": ("complete", "完成"),
    "finish_length": ("cut off at the token limit", "达到长度上限"),
    "finish_tool_calls": ("waits for a tool", "等待工具结果"),
    "finish_other": ("ended: {reason}", "结束：{reason}"),
    "tokens": ("{prompt} + {completion} tokens", "{prompt} + {completion} 词元"),
    "rate": ("{rate} tokens/s", "{rate} 词元/秒"),
    "first_token": ("first after {seconds} s", "首字 {seconds} 秒"),
    "seconds": ("{seconds} s", "{seconds} 秒"),
    "parameters": ("Parameters", "参数量"),
    "context": ("Context", "上下文长度"),
    "kind": ("Stage", "训练阶段"),
    "precision": ("Precision", "精度"),
    "fingerprint": ("Fingerprint", "指纹"),
    "parents": ("Made from", "来源"),
    # states
    "retry": ("Try again", "重试"),
    "server_said": ("The server says:", "服务器返回："),
    "unreachable": (
        "No server answers at {url}. Start one with `{command}`, or give another address with `--server`.",
        "{url} 没有服务响应。请用 `{command}` 启动服务，或用 `--server` 指定其他地址。",
    ),
    "timeout": ("The server at {url} took too long to answer.", "{url} 的服务器响应超时。"),
    "wrong_key": (
        "The server at {url} refuses the key. Give the right one with `--api-key` or in `MINIMIND_API_KEY`.",
        "{url} 的服务器拒绝了密钥。请用 `--api-key` 或环境变量 `MINIMIND_API_KEY` 提供正确的密钥。",
    ),
    "no_api": (
        "There is no OpenAI-compatible API at {url}. Such addresses mostly end in `/v1`.",
        "{url} 不是 OpenAI 兼容接口。这类地址通常以 `/v1` 结尾。",
    ),
    "no_model": (
        "The server does not have this model any more. Choose another one.",
        "服务器上已没有该模型，请另选一个。",
    ),
    "no_models": ("The server at {url} offers no model.", "{url} 的服务器没有提供任何模型。"),
    "model_gone": (
        "The server has no model “{model}” now; this conversation goes on with {other}.",
        "服务器上已没有模型“{model}”，本对话将改用 {other}。",
    ),
    "rate_limited": ("The server is busy.", "服务器繁忙。"),
    "rate_limited_until": ("The server is busy. It asks to wait {wait}.", "服务器繁忙，请等待 {wait} 后再试。"),
    "context_full": (
        "The conversation is longer than the model's context. Start a new one, or shorten it.",
        "对话超出了模型的上下文长度。请新建对话，或缩短内容。",
    ),
    "refused": ("The server does not take this request.", "服务器不接受该请求。"),
    "server_failed": ("The server failed.", "服务器出错。"),
    "broke_off": ("The answer broke off.", "回答中断了。"),
    "not_openai": (
        "The server's answer is not in OpenAI's format.",
        "服务器的返回不符合 OpenAI 格式。",
    ),
    "empty": ("The answer is empty.", "回答为空。"),
    "unsaved": ("The answer could not be saved: {why}", "回答无法保存：{why}"),
    "disk": ("The conversations cannot be read or written: {why}", "无法读写对话：{why}"),
}


def language_of(locales: Sequence[str | None]) -> Language:
    """The language of the first locale that is given; English where it is neither."""
    first = next((locale for locale in locales if locale), "en")
    return "zh" if first.lower().startswith("zh") else "en"


def speaker(language: Language) -> Say:
    """`say(key, field=…)` gives a text of the page in `language`."""
    column = list(LANGUAGES).index(language)

    def say(key: str, **fields: object) -> str:
        return WORDS[key][column].format(**fields)

    return say
