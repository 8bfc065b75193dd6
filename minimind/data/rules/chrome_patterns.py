"""What sites print around texts, in Chinese and English: patterns of whole lines.

A pattern is two parts: the literals that a line begins with, whose first characters are the gate, and a regular
expression for all the rest of the line. The words of a phrase are not enough where a text may begin so: the rest
must then be what only a notice says. Only additions that no book, poem or manual has as a line belong here.

Not here: words of menus (`chrome_menus`); how lines are judged (`chrome_lines`) and taken out (`boilerplate`).
"""

ENGLISH: tuple[tuple[str, str], ...] = (
    (
        r"copyright|©|c\) 19|c\) 20",
        r"[^\w\n]{0,6}(?:\(c\)|©)?[^\w\n]{0,3}(?:19|20)?\d\d\b.{0,160}?(?:all rights? reserved|版权所有"
        "|保留所有权利|ICP[备證证]).{0,160}",
    ),
    (
        r"copyright ©|copyright \(c\)|©|copyright",
        r"\s*(?:19|20)\d\d(?:\s*[-–—,]\s*(?:(?:19|20)\d\d|present))?[ ,]{0,2}[^.。;]{0,50}\.?",
    ),
    (
        "all rights reserved|all right reserved",
        "[.!。]?(?: .{0,80})?",
    ),
    (
        "all content|all contents|all images|all articles",
        "(?: on this (?:web)?site)?[, ].{0,60}(?:copyright|all rights reserved|©).{0,80}",
    ),
    (
        "we use cookies|this site uses cookies|this website uses cookies|our website uses cookies"
        "|our site uses cookies|we and our partners use cookies|this page uses cookies|like most websites"
        "|we use our own cookies|by using this site|by using our site|by using this website"
        "|by continuing to use|by continuing to browse|by clicking accept|by clicking “accept"
        '|by clicking "accept',
        ".{0,200}(?:cookie|experience|terms|privacy|consent|agree|accept|policy).{0,200}",
    ),
    (
        "accept all cookies|accept cookies|cookie settings|cookie preferences|manage cookies|reject all cookies",
        ".{0,60}",
    ),
    (
        "login|log in|sign in|register|sign up|please login|please log in|please sign in|please register"
        "|you must be logged in|you must log in|you need to be logged in|you need to log in|create an account"
        "|create a free account|already have an account|already a member|don't have an account|not a member",
        "(?:(?: or |/| and )(?:register|sign ?up|log ?in|sign ?in|create an account|join))?(?:,? (?:to"
        "|and) (?:post|reply|comment|continue|view|read|see|leave|vote|add|join|access|get|save"
        r"|download)\b.{0,80}|\?.{0,60}| here\.?| now[.!]?)",
    ),
    (
        "subscribe to|subscribe for|subscribe now|sign up for|sign up to|join our|get our|receive our",
        r".{0,80}\b(?:newsletters?|mailing list|email(?:s| updates| alerts)?|inbox|our (?:blog|channel|feed"
        r"|updates)|this blog|rss)\b.{0,80}",
    ),
    (
        "enter your email|your email address will|enter your e-mail|required fields are marked|save my name, email",
        ".{0,160}",
    ),
    (
        "never miss a|get the latest|get the best",
        r".{0,80}\b(?:inbox|email|newsletter|update|updates|post|story)\b.{0,40}",
    ),
    (
        "share this|share on|share via|share with|share it|tweet this|pin it|email this|print this"
        "|click to share|click to email|click to print|follow us|follow me|like us|find us|connect with us",
        "(?: (?:article|post|story|page|entry|on|with|via|to|in|a|your|friends?|link|facebook|twitter|x"
        r"|linkedin|pinterest|reddit|whatsapp|telegram|instagram|youtube|google\+?|tumblr|pocket|e-?mail|print"
        r"|friend|new|window|opens|and|or|&)|[^\w\n])*",
    ),
    (
        "read more|continue reading|read the full|read full|view full|see full",
        "(?: (?:article|story|post|text|here|about .{1,80}|at .{1,60}|on .{1,60}"
        r"|from .{1,60}))?(?:[:»→>….‹› ]{0,6}|[:»→>…]\s*.{0,80})",
    ),
    (
        "click here",
        " (?:to|for) .{1,80}",
    ),
    (
        "view all|see all|show all|load more|show more",
        r" ?(?:\d+ )?(?:comments?|posts?|articles?|replies|stories|results|products|news|by .{1,30})",
    ),
    (
        "page 1|page 2|page 3|page 4|page 5|page 6|page 7|page 8|page 9",
        r"\d{0,4} (?:of|/) \d{1,5}.{0,20}",
    ),
    (
        "previous post|next post|previous article|next article|previous story|next story|previous entry"
        "|next entry|older posts|newer posts|older entries|newer entries|previous page|next page|prev post"
        "|previous chapter|next chapter|older comments|newer comments",
        "[:»→>«‹› ]*(?:(?<=[:»→>«‹› ]).{0,100})?",
    ),
    (
        "skip to|jump to",
        " (?:the )?(?:main |primary |page |site )?(?:content|navigation|search|menu|footer|sidebar|bottom|top).{0,60}",
    ),
    (
        "toggle navigation|toggle menu|back to top|go to top|scroll to top|return to top|back to home"
        "|return to homepage|open menu|close menu|main navigation|site navigation|primary menu",
        r"\W*",
    ),
    (
        "advertisement|advertisements|sponsored|sponsored content|sponsored links|story continues below"
        "|article continues|continue reading below|scroll to continue|advertise here",
        r"[ \-–—:]*(?:continue reading below|continues? after (?:the )?ad(?:vertisement)?"
        "|below(?: (?:this )?ad(?:vertisement)?)?|advertisement)?[.: ]*",
    ),
    (
        "download our|download the|get our|get the|available on|download on|get it on|available in",
        r" (?:free |new |mobile |official |.{1,20} )?(?:app\b.{0,60}|(?:the )?(?:app store"
        r"|google play)\b.{0,40})",
    ),
    (
        "javascript",
        " (?:is|must be|seems to be|needs to be|has been|appears to be) (?:currently |not )?(?:required"
        "|disabled|enabled|turned off|off).{0,160}",
    ),
    (
        "please enable|please turn on|you need to enable|you must enable|enable javascript|this site requires"
        "|this page requires|this website requires|this app works best|this application requires"
        "|we're sorry but",
        r"(?:\b.{0,120}\b|(?<=enable )|(?<=enable))javascript.{0,160}",
    ),
    (
        "your browser",
        " (?:does not|doesn't|is not|isn't|is out of date|is outdated|may not).{0,160}",
    ),
    (
        "powered by|proudly powered by|designed by|web design by|website by|site by|theme by|theme:"
        "|site designed by|website designed by|hosted by|built with",
        " (?:wordpress|discuz|drupal|joomla|phpbb|vbulletin|ghost|hugo|jekyll|hexo|shopify|squarespace|wix"
        "|blogger|blogspot|magento|typecho|z-blog|dedecms|phpcms|mediawiki|disqus|phpwind|.{1,30} (?:theme"
        r"|themes|design|studio|template|by) ?.{0,30})\b.{0,60}",
    ),
    (
        "filed under|filed in|posted in|tagged with|tagged as|tagged:|tagged",
        "(?::| with:| as:)? ?[^.!?]{1,100}(?<! the)",
    ),
    (
        "leave a comment|leave a reply|leave comment|post a comment|add a comment|add your comment"
        "|write a comment|no comments|comments are closed|comments off|comment on this"
        r"|be the first to comment|show comments|hide comments|view comments|comments \(",
        r"(?: yet| cancel reply| on .{1,60}|\d+\))?[.!:» ]*",
    ),
    (
        "this e-mail|this email|this message|this communication|the information in this email"
        "|the information contained in this|the contents of this email|confidentiality notice"
        "|disclaimer: this e",
        ".{0,120}(?:confidential|intended (?:only|solely|for)|privileged|intended recipient).{0,1000}",
    ),
    (
        "if you are not the intended|if you have received this|please consider the environment",
        ".{0,400}",
    ),
    (
        "sent from my|get outlook for|sent via|to unsubscribe|unsubscribe from"
        "|you received this message because|you are receiving this|you're receiving this|sent from mail for",
        " ?(?:.{0,160})",
    ),
    (
        "lorem ipsum",
        " dolor.{0,1000}|",
    ),
    (
        "home|you are here|homepage",
        "(?::? ?home)?(?: ?[>»›→/] ?[^>»›→/.!?]{1,40}){1,7}",
    ),
)
CHINESE: tuple[tuple[str, str], ...] = (
    (
        "版权所有|版權所有|版权归",
        r"[^。！？]{0,40}(?:©|\d{4}|ICP|公司|未经|保留|[Rr]ights|翻印|不得|必究|本站|网站|[:：]|网|$).{0,120}",
    ),
    (
        "备案号|ICP备|ICP证|备案序号|网站备案|公网安备|京公网安备|沪公网安备|粤公网安备|浙公网安备|苏公网安备"
        "|增值电信|网络文化经营|信息网络传播|互联网新闻信息|互联网药品|广播电视节目制作|营业执照"
        "|网络视听许可证|新出网证|出版物经营",
        r".{0,160}\d{4,}.{0,160}|.{0,20}许可证.{0,60}",
    ),
    (
        "京ICP|沪ICP|粤ICP|浙ICP|苏ICP|津ICP|渝ICP|鲁ICP|豫ICP|冀ICP|晋ICP|辽ICP|吉ICP|黑ICP|皖ICP|闽ICP"
        "|赣ICP|鄂ICP|湘ICP|琼ICP|川ICP|蜀ICP|黔ICP|滇ICP|陕ICP|甘ICP|陇ICP|青ICP|宁ICP|新ICP|桂ICP|蒙ICP"
        "|藏ICP",
        " ?[备证备備].{0,160}",
    ),
    (
        "违法和不良信息|不良信息举报|违法不良信息|网上有害信息",
        ".{0,100}",
    ),
    (
        "未经",
        ".{0,20}(?:授权|许可|允许|同意|书面).{0,20}(?:不得|禁止|严禁|请勿|谢绝).{0,60}",
    ),
    (
        "转载请|轉載請|如需转载|欢迎转载|谢绝转载|禁止转载|转载须|转载必须|转载时|转载需|请勿转载|严禁转载",
        r"[^：:。]{0,30}(?:[：:] ?(?:.{0,60}(?:https?:|www\.|\.com|\.cn|来源|链接|作者|公众号|网$"
        "|站$).{0,80})?)?[。！]?",
    ),
    (
        "本文来源|本文转载自|本文转自|本文链接|本文地址|本文网址|原文链接|原文地址|原文出处|文章来源|新闻来源"
        "|信息来源|稿件来源|图片来源|资料来源|消息来源|文章转自|转载自|转自|本文标题|本文首发",
        r"(?:于|自)?\s?[:：]?.{0,120}",
    ),
    (
        "责任编辑|責任編輯|责编|本文编辑|编辑|网络编辑|值班编辑|实习编辑|本期编辑|文字编辑|执行编辑|审核编辑"
        "|校对|初审|终审",
        " ?[:：] ?.{0,40}",
    ),
    (
        "上一篇|下一篇|上一条|下一条|上一章|下一章|上一页|下一页|前一篇|后一篇|上篇|下篇|上一节|下一节",
        r" ?(?:文章|新闻)?[:：>»]+ ?.{0,80}|(?:\s*[|｜]?\s*(?:目录|返回目录|书页|加入书签|章节目录|首页|尾页"
        r"|下一篇|下一章|下一页|上一页|\d{1,3}))+",
    ),
    (
        "扫码|扫一扫|扫描|微信扫|手机扫|长按|识别二维码|请用微信|打开微信|微信搜|欢迎关注|关注微信|关注公众号"
        "|关注我们|关注本公众号|请关注|敬请关注|搜索公众号|添加微信|点击上方|点击下方|点击关注|点击蓝字"
        "|点击左上|点击右上|点击阅读原文|点击底部",
        "(?=.{0,60}(?:关注|二维码|公众号|公号|下载|微信|朋友圈|蓝字|阅读原文|APP|app)|(?<=关注我们)"
        "|(?<=识别二维码)).{0,60}",
    ),
    (
        "微信公众号|微信号|公众号|微信公众平台|官方微信|微信订阅号|QQ群|交流群|qq群|粉丝群",
        r" ?(?:[:：] ?|\(ID).{0,60}",
    ),
    (
        "阅读全文|阅读原文|查看全文|查看原文|展开全文|展开阅读全文|点击阅读|点击查看|点击展开|点击这里"
        "|点击此处|点击进入|点击加载|点击下载|点此|查看更多|加载更多|更多精彩|更多内容|更多资讯|更多相关"
        "|了解更多",
        "[^。！？，有]{0,20}[。！>»…]*",
    ),
    (
        "分享到|分享至|分享给|分享:|分享：|分享本文|分享按钮|一键分享|分享文章|转发到",
        "[^。！？]{0,50}",
    ),
    (
        "请登录|请先登录|登录后|您需要登录|你需要登录|您还没有登录|您尚未登录|还没有账号|没有账号|还没账号"
        "|已有账号|马上注册|立即登录|登录注册|登录/注册|登录才能|注册登录|游客您好|您好，请登录|请登陆|用户名",
        "(?=.{0,60}(?:登录|登陆|注册|评论|回复|查看|密码|账号|$)).{0,60}",
    ),
    (
        "发表评论|网友评论|我要评论|最新评论|热门评论|全部评论|暂无评论|还没有评论|文明上网|我来说两句"
        "|评论列表|请自觉遵守互联网",
        "[^。]{0,60}",
    ),
    (
        "免责声明|特别声明|郑重声明|版权声明|声明|法律声明|温馨提示|侵权声明|风险提示",
        " ?[:：】].{0,20}(?:本文|本站|本网|文章|以上|内容|转载|凡|该文|文中|图片|部分|资源|此文|所有"
        "|市场有风险|投资).{0,400}",
    ),
    (
        "凡本网|凡本站|凡注明|本网站所|本站所有|本站内容|本站部分|本站文章|本站资源|本网转载|本网站部分"
        "|如有侵权|若有侵权|如侵权|如涉及版权|如果侵|如侵犯|侵权请|侵删|以上内容仅|以上文章仅|以上观点"
        "|文章内容仅|本文仅代表|文章仅代表|文章观点|内容仅供参考|图片来自网络|图片源于网络|文章来自网络",
        "(?=.{0,120}(?:转载|版权|侵权|删除|来源|网络|互联网|参考|观点|立场|投资|编辑整理|发布|原创|侵|$)).{0,300}",
    ),
    (
        "您现在的位置|您的位置|你的位置|您当前的位置|您所在的位置|当前位置|所在位置|你现在的位置|您当前位置|目前位置",
        " ?(?:是)?[:：].{0,120}",
    ),
    (
        "首页|网站首页|首頁|主页",
        "(?: ?[>»›→/＞] ?[^>»›→/＞。！？]{1,40}){1,7}",
    ),
    (
        "下载客户端|下载APP|打开APP|打开客户端|立即下载|免费下载|下载手机|手机客户端|手机APP|在APP|请在APP"
        "|用APP|APP内|客户端内|安装APP|下载App|打开App|下载app|打开app|下载新闻客户端",
        "[^。！？]{0,40}",
    ),
    (
        "设为首页|加入收藏|收藏本站|加为收藏",
        "[^。！？]{0,60}",
    ),
    (
        "本帖最后由|本主题由|本帖被|本贴由",
        ".{1,60}",
    ),
    (
        "您的浏览器|你的浏览器|请启用|请开启|请打开浏览器|需要启用|本站需要|本页面需要|浏览器版本过低",
        "(?=.{0,60}(?:[Jj]ava ?[Ss]cript|不支持|版本|升级|过低|浏览器)).{0,100}",
    ),
    (
        "本网站使用|本站使用|我们使用|本网站會使用|我們使用|继续使用本网站|继续浏览本",
        "(?=.{0,60}(?:cookie|隐私)).{0,200}",
    ),
    (
        "本章未完|一秒记住|天才一秒记住|请记住本|请收藏本站|手机用户请|手机阅读|最新章节|请牢记"
        "|记住手机版网址|本书首发|喜欢本书|温馨提示：按",
        "(?=.{0,80}(?:阅读|域名|网址|收藏|章|地址|更新|首发|小说|书|回车)).{0,100}",
    ),
    (
        "字体|字号|【字体|打印本页|关闭窗口|打印|浏览次数|点击次数|点击数|阅读次数|阅读量|浏览量|阅读数|访问量",
        r" ?(?:[:：] ?(?:[大中小]\s?){2,3}.{0,40}|[:：] ?\d+ ?次?.{0,30})",
    ),
)
