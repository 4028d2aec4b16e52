"""Retrieval among any modalities: InfoNCE for the pairs that are named, several candidates, and absence a row."""

import itertools

import pytest
import torch
from conftest import tiny_batch, tiny_config
from test_third_modality import PointsConfig, with_points  # noqa: F401 (a modality of the tests, in every test here)

from modeling_ume import UMEForImageTextRetrieval, UMEForRetrieval
from modeling_ume.contrast_ume import pair_loss
from modeling_ume.retrieval_ume import contrastive_loss


def model_of(seed=0, **fields):
    torch.manual_seed(seed)
    return UMEForRetrieval(tiny_config(**fields)).eval()


def batch_of(size=4, clouds=True):
    batch = tiny_batch(size, num_images=size)
    batch = {name: value for name, value in batch.items() if name != "image_index"}
    return {**batch, "points": torch.randn(size, 5, 3)} if clouds else batch


def test_text_and_vision_say_what_the_older_model_says():
    older = UMEForImageTextRetrieval(tiny_config()).eval()
    model = UMEForRetrieval(tiny_config()).eval()
    model.load_state_dict(older.state_dict())
    batch = {**tiny_batch(5, num_images=3), "image_index": torch.tensor([0, 1, 1, 2, 0])}
    before, now = older(**batch, return_loss=True), model(**batch, return_loss=True)
    torch.testing.assert_close(now.logits["text_vision"], before.logits_per_text)
    torch.testing.assert_close(now.loss, before.loss)
    torch.testing.assert_close(now.embeds["vision"], before.image_embeds)


def test_every_two_modalities_are_compared_or_those_that_are_named():
    batch = batch_of()
    every = model_of(points_config=PointsConfig())
    assert every(**batch).logits.keys() == {"text_vision", "text_points", "vision_points"}
    named = model_of(points_config=PointsConfig(), retrieval_pairs=[["vision", "points"]])
    output = named(**batch, return_loss=True)
    assert output.logits.keys() == {"vision_points"}
    assert not hasattr(named, "text_projection")
    assert output.loss.item() == pytest.approx(
        pair_loss(output.logits["vision_points"], *[torch.arange(4)] * 2).item()
    )


def test_the_loss_is_the_mean_over_pairs_of_the_formula():
    output = model_of(points_config=PointsConfig())(**batch_of(), return_loss=True)
    wanted = [
        (torch.nn.functional.cross_entropy(logits, torch.arange(4))
         + torch.nn.functional.cross_entropy(logits.T, torch.arange(4))) / 2
        for logits in output.logits.values()
    ]  # fmt: skip
    torch.testing.assert_close(output.loss, torch.stack(wanted).mean())


def test_of_several_candidates_one_has_to_fit():
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    loss = pair_loss(logits, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
    forth = [logits[0].logsumexp(0) - logits[0, :2].logsumexp(0), logits[1].logsumexp(0) - logits[1, 2]]
    back = [logits[:, v].logsumexp(0) - logits[u, v] for u, v in ((0, 0), (0, 1), (1, 2))]
    torch.testing.assert_close(loss, (torch.stack(forth).mean() + torch.stack(back).mean()) / 2)
    torch.testing.assert_close(
        pair_loss(logits.T, torch.arange(3), torch.tensor([0, 0, 1])),
        contrastive_loss(logits.T, torch.tensor([0, 0, 1])),
    )


@pytest.mark.parametrize("lacking", ["vision", "points"])
def test_an_example_that_lacks_a_modality_counts_as_if_it_were_not_there(lacking):
    model, batch = model_of(points_config=PointsConfig(), retrieval_pairs=[["vision", "points"]]), batch_of(4)
    batch = {name: batch[name] for name in ("pixel_values", "points")}
    short = {"vision": "image", "points": "points"}[lacking]
    without = model(**batch, **{f"{short}_present": torch.tensor([True, True, False, True])}, return_loss=True)
    rows = torch.tensor([0, 1, 3])
    alone = model(**{name: value[rows] for name, value in batch.items()}, return_loss=True)
    torch.testing.assert_close(without.loss, alone.loss)


def test_a_batch_in_which_nothing_belongs_together_has_the_loss_zero_and_finite_gradients():
    model = model_of(points_config=PointsConfig(), retrieval_pairs=[["vision", "points"]])
    batch = {name: batch_of()[name] for name in ("pixel_values", "points")}
    loss = model(**batch, points_present=torch.zeros(4, dtype=torch.bool), return_loss=True).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_training_brings_together_what_belongs_together():
    model, batch = model_of(points_config=PointsConfig()).train(), batch_of(6)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        model(**batch, return_loss=True).loss.backward()
        optimizer.step()
    output = model.eval()(**batch)
    for logits in output.logits.values():
        assert (logits.argmax(1) == torch.arange(6)).all()


def test_features_are_those_of_the_forward_and_of_length_one(tmp_path):
    model, batch = model_of(points_config=PointsConfig()), batch_of()
    features = model.get_features("points", points=batch["points"])
    torch.testing.assert_close(features.pooler_output, model(**batch).embeds["points"])
    torch.testing.assert_close(features.pooler_output.norm(dim=1), torch.ones(4))
    model.save_pretrained(tmp_path)
    again = UMEForRetrieval.from_pretrained(tmp_path).eval()
    for name, pair in again(**batch).logits.items():
        assert torch.equal(pair, model(**batch).logits[name])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["input_ids"], "No pair of modalities was given to compare: give input_ids and pixel_values"),
        (["input_ids", "pixel_values", "waves"], "no argument 'waves'"),
    ],
)
def test_what_cannot_be_compared_is_said(given, said):
    batch = {**batch_of(), "waves": torch.ones(4, 3)}
    with pytest.raises((ValueError, TypeError), match=said):
        model_of()(**{name: batch[name] for name in given})


def test_numbers_of_examples_that_differ_are_said():
    batch = {**batch_of(4, clouds=False), "pixel_values": batch_of(3)["pixel_values"]}
    with pytest.raises(ValueError, match=r"4 of text, 3 of vision.: give text_index and image_index"):
        model_of()(**batch, return_loss=True)


@pytest.mark.parametrize("pairs", [[], [["text"]], [["text", "text"]], [["text", "audio"]], "text", [["text", 3]]])
def test_impossible_pairs_are_said(pairs):
    with pytest.raises(ValueError, match="retrieval_pairs"):
        tiny_config(retrieval_pairs=pairs)


def test_a_modality_that_no_pair_has_is_said():
    model = model_of(points_config=PointsConfig(), retrieval_pairs=[["vision", "points"]])
    with pytest.raises(ValueError, match="text is in none of the pairs that this model compares: vision and points"):
        model.get_features("text", input_ids=torch.ones(2, 3).long())
    assert list(itertools.chain(*model.parts().values()))
