"""MiniMind: raw text to a chat model of your own. The library; it knows no orchestrator and no tracker."""
