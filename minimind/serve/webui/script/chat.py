"""What Streamlit runs at every click."""

from minimind.serve.webui.frame import show

if __name__ == "__main__":
    show()
