"""The two things on the page that need a browser's own script: copying, and keeping the end of an answer in sight.

The scripts are ours and get data only, which they show as text. Not here: everything Streamlit can do itself.
"""

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

_COPY_HTML = '<button type="button"></button>'
_COPY_CSS = """
button { all: unset; cursor: pointer; font: 0.8rem var(--st-font, sans-serif); color: inherit; opacity: 0.75;
         padding: 0.3rem 0.4rem; border-radius: 8px; white-space: nowrap; line-height: 1.2rem; }
button:hover, button:focus-visible { opacity: 1; background: color-mix(in srgb, currentColor 10%, transparent); }
"""
_COPY_JS = """
export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button");
  button.textContent = data.label;
  button.onclick = async () => {
    if (navigator.clipboard && window.isSecureContext) {
      await navigator.clipboard.writeText(data.text);
    } else {  // a page over plain http from another machine has no clipboard
      const area = document.createElement("textarea");
      area.value = data.text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = data.done;
    setTimeout(() => { button.textContent = data.label; }, 1500);
  };
}
"""
_FOLLOW_JS = """
export default function ({ data }) {
  const main = document.querySelector('[data-testid="stMain"]');
  const content = document.querySelector('[data-testid="stMainBlockContainer"]');
  if (!main || !content) return;
  const toEnd = () => main.scrollTo({ top: main.scrollHeight });
  if (main.dataset.turn !== data.turn) {  // another conversation, or a new turn
    main.dataset.turn = data.turn;
    main.dataset.follows = "yes";
    toEnd();
  }
  const onScroll = () => {  // who scrolls up wants to read
    main.dataset.follows = main.scrollHeight - main.scrollTop - main.clientHeight < 80 ? "yes" : "no";
  };
  const observer = new ResizeObserver(() => { if (main.dataset.follows === "yes") toEnd(); });
  main.addEventListener("wheel", onScroll, { passive: true });
  main.addEventListener("touchmove", onScroll, { passive: true });
  observer.observe(content);
  const settle = data.live ? 0 : setTimeout(() => { observer.disconnect(); }, 1500);
  return () => {
    clearTimeout(settle);
    observer.disconnect();
    main.removeEventListener("wheel", onScroll);
    main.removeEventListener("touchmove", onScroll);
  };
}
"""


@st.cache_resource
def copy_button() -> ComponentRenderer:
    """A button that copies `data["text"]`; its words are `data["label"]`, and for a moment `data["done"]`."""
    return st.components.v2.component("minimind_copy", html=_COPY_HTML, css=_COPY_CSS, js=_COPY_JS)


@st.cache_resource
def follower() -> ComponentRenderer:
    """Nothing to see: scrolls to the end at a new `data["turn"]`, and along while `data["live"]`."""
    return st.components.v2.component("minimind_follower", html="<span></span>", js=_FOLLOW_JS)
