"""The script of the page alone: Streamlit puts a script's folder first on the path.

There the names of the modules of this package (`html`, …) would hide packages that Streamlit itself imports.
"""
