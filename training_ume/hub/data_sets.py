"""What model cards say of known data sets."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DataSet:
    """What a card says about a data set."""

    name: str
    about: str  # what it holds and where it is from: whole sentences
    licence: str  # a whole sentence
    hub_id: str | None = None
    show_images: bool | None = None  # whether its licence lets a card show pictures; None: nobody has said
    limits: list[str] = field(default_factory=list)  # whole sentences
    citation: str = ""  # BibTeX
    language: list[str] | None = None  # codes; None: told by the questions


CITATION = """
@software{ume,
  title = {{UME}: Uni-Modal Ensemble},
  note = {Implements the thesis "Research on Efficient Modality Fusion for Enhanced Uni-modal Ensemble"},
}
"""

DATA_SETS = {
    "easy_vqa": DataSet(
        name="easy-VQA",
        about="[easy-VQA](https://github.com/vzhou842/easy-VQA): drawings of 64 × 64 pixels, each of one coloured "
        "shape, with generated questions about shape and colour; from the Python package `easy-vqa`.",
        licence="easy-VQA is MIT-licensed; the pictures on this page are from it.",
        show_images=True,
        language=["en"],
        limits=["It has seen drawings of one shape on a plain ground, three shapes and eight colours: nothing else."],
        citation="""
@software{zhou2019easyvqa,
  title = {easy-{VQA}},
  author = {Zhou, Victor},
  year = {2019},
  url = {https://github.com/vzhou842/easy-VQA},
}
""",
    ),
    "daquar": DataSet(
        name="DAQUAR",
        about="[DAQUAR](https://www.mpi-inf.mpg.de/departments/computer-vision-and-machine-learning/research/"
        "vision-and-language/visual-turing-challenge): questions that people asked about the indoor photographs of "
        "NYU Depth v2.",
        licence="DAQUAR's questions and NYU Depth v2's photographs come without a stated data licence: none is "
        "included.",
        show_images=False,
        language=["en"],
        limits=[
            "It has seen indoor photographs of one collection; one person answered each question, often where others "
            "would say something else.",
        ],
        citation="""
@inproceedings{malinowski2014daquar,
  title = {A Multi-World Approach to Question Answering about Real-World Scenes based on Uncertain Input},
  author = {Malinowski, Mateusz and Fritz, Mario},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2014},
}

@inproceedings{silberman2012nyu,
  title = {Indoor Segmentation and Support Inference from {RGBD} Images},
  author = {Silberman, Nathan and Hoiem, Derek and Kohli, Pushmeet and Fergus, Rob},
  booktitle = {European Conference on Computer Vision},
  year = {2012},
}
""",
    ),
    "vqa_v2": DataSet(
        name="VQA v2",
        about="[VQA v2](https://visualqa.org): questions about COCO photographs, with the answers of ten people each.",
        licence="VQA v2's annotations are CC BY 4.0; the photographs belong to their Flickr authors; none is "
        "included.",
        hub_id="HuggingFaceM4/VQAv2",
        show_images=False,
        language=["en"],
        limits=["Its questions are short, in English, and were asked by paid annotators about Flickr photographs."],
        citation="""
@inproceedings{goyal2017making,
  title = {Making the {V} in {VQA} Matter: Elevating the Role of Image Understanding in Visual Question Answering},
  author = {Goyal, Yash and Khot, Tejas and Summers-Stay, Douglas and Batra, Dhruv and Parikh, Devi},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2017},
}
""",
    ),
}
