"""Ask a model from Python: a folder that `ume train` wrote, a released one, or a name on the Hub.

python examples/ask_from_python.py
python examples/ask_from_python.py MODEL PICTURE QUESTION
"""

import sys

from PIL import Image

from modeling_ume import UMEVQAPipeline
from training_ume.evaluation.load import load_checkpoint

name, picture, question = sys.argv[1:] or (
    "model_cards/easy_vqa", "docs/explain/drawing.png", "what shape is in the image?"
)  # fmt: skip

if __name__ == "__main__":
    model, processor = load_checkpoint(name)
    # The pipeline takes paths, addresses and PIL images, one question or several; an image is encoded once for all.
    vqa = UMEVQAPipeline(model=model, processor=processor, top_k=2)
    for best, second in vqa(Image.open(picture), [question, "is there a circle?"]):
        print(f"{best['answer']} ({best['score']:.0%}), or {second['answer']} ({second['score']:.0%})")

    # What the pipeline does, step by step.
    inputs = processor(images=Image.open(picture), text=question, return_tensors="pt")
    print(processor.decode_answers(model(**inputs).logits))
