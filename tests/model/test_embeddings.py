"""What enters the layers: words by word position, regions by feature and box, and a visual [CLS] like one more."""

from __future__ import annotations

import dataclasses

import torch
from tiny import CONFIG, a_batch
from torch import Tensor
from torch.nn import functional as F

from msp_ds.model.embeddings import RegionEmbedding, TextEmbedding


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-12)


def test_a_token_is_the_norm_of_word_plus_position_plus_type() -> None:
    made = TextEmbedding(CONFIG).eval()
    out = made(torch.tensor([[2, 7]]), torch.tensor([[1, 3]]))
    wanted = norm(made.word.weight[7] + made.position.weight[3] + made.type_vector)
    torch.testing.assert_close(out[0, 1], wanted)


def test_two_pieces_of_a_word_share_their_position() -> None:
    made = TextEmbedding(CONFIG).eval()
    out = made(torch.tensor([[7, 7, 7]]), torch.tensor([[4, 4, 5]]))[0]
    assert torch.equal(out[0], out[1])
    assert not torch.allclose(out[0], out[2])


def test_pieces_are_counted_from_0_whatever_the_words() -> None:
    made = TextEmbedding(dataclasses.replace(CONFIG, positions="pieces")).eval()
    out = made(torch.tensor([[2, 7, 7]]), torch.tensor([[1, 4, 4]]))[0]
    for place, piece in enumerate((2, 7, 7)):
        wanted = norm(made.word.weight[piece] + made.position.weight[place] + made.type_vector)
        torch.testing.assert_close(out[place], wanted)


def test_the_position_of_the_texts_cls_is_trained_where_pieces_are_counted() -> None:
    made, batch = TextEmbedding(dataclasses.replace(CONFIG, positions="pieces")), a_batch()
    (made(batch.token_ids, batch.word_positions)[:, 0] * torch.linspace(0, 1, CONFIG.hidden_size)).sum().backward()
    assert made.position.weight.grad is not None
    assert made.position.weight.grad[0].any()
    assert not made.position.weight.grad[1:].any()


def test_padding_rows_get_no_gradient() -> None:
    made, batch = TextEmbedding(CONFIG), a_batch()
    made(batch.token_ids, batch.word_positions).square().sum().backward()
    assert not batch.token_mask.all()
    for table in (made.word, made.position):
        assert table.weight.grad is not None
        assert not table.weight.grad[0].any()
        assert table.weight.grad[1:].any()


def test_the_type_vector_is_saved_but_not_trained() -> None:
    made = TextEmbedding(CONFIG)
    assert "type_vector" in made.state_dict()
    assert "type_vector" not in dict(made.named_parameters())


def test_half_precision_weights_meet_the_type_vector_in_full() -> None:
    """As DeepSpeed leaves them with bf16 and ZeRO: LayerNorm refuses a state of another type than its own."""
    made, batch = TextEmbedding(CONFIG).eval(), a_batch()
    whole = made(batch.token_ids, batch.word_positions)
    for parameter in made.parameters():
        parameter.data = parameter.data.bfloat16()
    half = made(batch.token_ids, batch.word_positions)
    assert (made.type_vector.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0)


def test_a_region_is_half_the_sum_of_two_norms() -> None:
    made, batch = RegionEmbedding(CONFIG).eval(), a_batch()
    out = made(batch.features, batch.boxes)
    feature, box = batch.features[1, 2].float(), batch.boxes[1, 2]
    wanted = (norm(made.feature(feature)) + norm(made.box(box))) / 2
    torch.testing.assert_close(out[1, 3], wanted)  # slot 0 is the visual [CLS]


def test_the_visual_cls_is_one_learned_feature_with_the_whole_image_as_its_box() -> None:
    made, batch = RegionEmbedding(CONFIG).eval(), a_batch()
    assert made.cls_feature.shape == (CONFIG.feature_width,)
    first = made(batch.features, batch.boxes)[:, 0]
    as_region = made(made.cls_feature.detach().expand(1, 1, -1), torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]))[0, 1]
    torch.testing.assert_close(first, as_region.expand_as(first))


def test_the_visual_cls_learns() -> None:
    made, batch = RegionEmbedding(CONFIG).eval(), a_batch()
    weights = torch.linspace(0, 1, CONFIG.hidden_size)
    (made(batch.features, batch.boxes)[:, 0] * weights).sum().backward()
    assert made.cls_feature.grad is not None
    assert made.cls_feature.grad.abs().min() > 0


def test_without_a_visual_cls_the_regions_are_alone_and_the_same() -> None:
    without, batch = RegionEmbedding(dataclasses.replace(CONFIG, visual_cls=False)).eval(), a_batch()
    assert "cls_feature" not in without.state_dict()
    with_cls = RegionEmbedding(CONFIG).eval()
    with_cls.load_state_dict({**without.state_dict(), "cls_feature": torch.ones(CONFIG.feature_width)})
    torch.testing.assert_close(without(batch.features, batch.boxes), with_cls(batch.features, batch.boxes)[:, 1:])


def test_dropout_zero_makes_training_and_evaluation_agree() -> None:
    config, batch = dataclasses.replace(CONFIG, dropout=0.0), a_batch()
    made = RegionEmbedding(config)
    assert torch.equal(made.train()(batch.features, batch.boxes), made.eval()(batch.features, batch.boxes))


def test_weights_in_16_bits_take_the_fp32_buffers_that_deepspeed_leaves_beside_them() -> None:
    text = TextEmbedding(CONFIG)
    for parameter in text.parameters():
        parameter.data = parameter.data.bfloat16()
    batch = a_batch()
    assert text.type_vector.dtype == torch.float32
    assert text(batch.token_ids, batch.word_positions).dtype == torch.bfloat16
