"""The look: Gradio's base theme with the studio's two colours and the system's own fonts (nothing is fetched from outside)."""

from __future__ import annotations

import gradio as gr

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Helvetica Neue", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]


def studio_theme() -> gr.themes.Base:
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.orange, secondary_hue=gr.themes.colors.blue, neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_md, radius_size=gr.themes.sizes.radius_md, text_size=gr.themes.sizes.text_md,
        font=SANS, font_mono=MONO,
    )  # fmt: skip
    return theme.set(
        body_background_fill="*neutral_50", body_background_fill_dark="*neutral_950",
        block_border_width="1px", block_shadow="none", block_label_text_size="*text_sm",
        # Read easily on every ground: 4.5 to 1 and more (WCAG AA), which tests/browser/test_train_form.py measures.
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
        input_placeholder_color="*neutral_600", input_placeholder_color_dark="*neutral_400",
        block_title_text_color="*neutral_700", block_title_text_color_dark="*neutral_200",
        block_info_text_size="*text_sm", input_border_width="1px", button_large_radius="*radius_md",
        button_primary_background_fill="#c2570c", button_primary_background_fill_hover="#a8480a", button_primary_text_color="white",
        button_primary_background_fill_dark="#c2570c", button_primary_background_fill_hover_dark="#a8480a",
        block_title_text_weight="600", block_label_text_weight="500",
    )  # fmt: skip
