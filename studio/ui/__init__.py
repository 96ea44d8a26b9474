"""The Gradio pages. The only package that imports gradio."""
