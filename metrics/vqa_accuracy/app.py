"""The metric's Space: type a model's answer and the annotators' answers, and see the official score."""

from pathlib import Path

import evaluate
import gradio as gr

metric = evaluate.load(str(Path(__file__).with_name("vqa_accuracy.py")))


def score(prediction: str, answers: str) -> tuple[str, dict]:
    """One line of explanation and the metric's result for one question; `answers` holds one answer a line."""
    given = [line for line in answers.splitlines() if line.strip()]
    if not given:
        raise gr.Error("Enter at least one annotator's answer, one a line.")
    result = metric.compute(predictions=[prediction], references=[given])
    return f"{result['vqa_accuracy']:.2f} % VQA accuracy from {len(given)} answers", result


def card() -> str:
    """README.md without its front matter."""
    return Path(__file__).with_name("README.md").read_text(encoding="utf-8").split("---\n", 2)[-1]


with gr.Blocks(title="VQA accuracy") as demo:
    gr.Markdown("# VQA accuracy\nThe official score of one answer. Benchmarks have ten annotators a question.")
    with gr.Row():
        with gr.Column():
            prediction = gr.Textbox(label="The model's answer", value="Two cats.")
            answers = gr.Textbox(
                label="The annotators' answers, one a line", lines=10, value="\n".join(["2 cats"] * 3 + ["cats"] * 7)
            )
            button = gr.Button("Score", variant="primary")
        with gr.Column():
            line = gr.Textbox(label="Score")
            details = gr.JSON(label="What compute() returns")
    button.click(score, inputs=[prediction, answers], outputs=[line, details])
    gr.Markdown(card())

if __name__ == "__main__":
    demo.launch()
