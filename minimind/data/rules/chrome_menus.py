"""The words of menus that sites print around texts, in Chinese and English, separated by `|`.

Not here: whole lines (`chrome_patterns`), and how many such words make a menu (`chrome_lines`).
"""

MENU_ENGLISH = (
    "home|homepage|about|about us|about me|contact|contact us|blog|news|login|log in|log out|logout|sign in"
    "|sign up|sign out|register|subscribe|share|tweet|print|search|menu|main menu|sitemap|site map|privacy"
    "|privacy policy|terms|terms of use|terms of service|terms and conditions|terms & conditions"
    "|cookie policy|cookies|cookie settings|disclaimer|faq|faqs|help|support|careers|jobs|press|advertise"
    "|advertise with us|feedback|rss|rss feed|archives|archive|categories|products|services|solutions|pricing"
    "|shop|store|cart|checkout|my account|account|wishlist|add to cart|buy now|facebook|twitter|instagram"
    "|linkedin|pinterest|youtube|whatsapp|reddit|google+|email|e-mail this|follow us|like|reply|report"
    "|permalink|next|previous|prev|next page|previous page|older posts|newer posts|back to top|read more"
    "|learn more|show more|load more|view all|see all|accept|accept all|decline|reject all|related posts"
    "|related articles|popular posts|recent posts|recent comments|tags|copyright|all rights reserved"
    "|advertisement|skip to content|toggle navigation|close|gallery|events|forum|forums|downloads|resources"
    "|team|our team|testimonials|community|legal|imprint|accessibility|newsletter|subscribe now|join now"
    "|get started|you may also like|you might also like|recommended for you|more from this author"
    "|related stories|trending now|most popular|most read"
)
MENU_CHINESE = (
    "首页|网站首页|首頁|返回首页|返回顶部|回到顶部|返回列表|返回目录|关于我们|關於我們|联系我们|聯絡我們"
    "|联系方式|加入我们|诚聘英才|招贤纳士|人才招聘|广告服务|广告合作|商务合作|友情链接|网站地图|网站导航"
    "|站点地图|版权声明|版权所有|免责声明|隐私政策|隐私声明|隐私条款|隱私權政策|服务条款|用户协议|法律声明"
    "|法律顾问|意见反馈|投诉建议|举报|帮助中心|新手指南|登录|登錄|登入|注册|註冊|立即注册|免费注册|忘记密码"
    "|退出登录|会员中心|个人中心|我的订单|购物车|加入购物车|立即购买|加入收藏|收藏本页|收藏本站|收藏|设为首页"
    "|新闻|新闻中心|新闻资讯|公司简介|公司新闻|行业新闻|行业动态|产品中心|产品展示|产品详情|解决方案|成功案例"
    "|技术支持|在线客服|在线留言|客服热线|服务热线|咨询热线|工作时间|客服电话|下载中心|资料下载|详情|正文"
    "|关注微信公众号|关注微信|关注我们|微信公众号|官方微信|官方微博|新浪微博|微信|微博|朋友圈|QQ空间|QQ好友"
    "|腾讯微博|人人网|豆瓣|分享|分享到|打印|打印本页|关闭窗口|点赞|评论|转发|举报投诉|上一篇|下一篇|上一页"
    "|下一页|上一章|下一章|目录|尾页|末页|首 页|更多|更多>>|查看更多|加载更多|展开全文|阅读全文|阅读原文"
    "|相关阅读|相关推荐|相关文章|相关新闻|热门推荐|热门文章|猜你喜欢|推荐阅读|最新文章|发表评论|网友评论"
    "|我要评论|全部评论|手机版|电脑版|客户端|APP下载|下载APP|扫一扫|二维码|字体|字号|大中小|点击次数|点击数"
    "|浏览次数|阅读次数|网站首 页|论坛|博客|视频|图片|专题|財經|财经|体育|娱乐|科技|军事|汽车|房产|国际|国内"
    "|社会|相关链接|延伸阅读|热门标签|大家都在看|精彩推荐|今日热点|点击排行|阅读排行|为您推荐|为你推荐"
    "|您可能感兴趣|你可能感兴趣|您可能也喜欢"
)
