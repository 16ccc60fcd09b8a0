"""Our names beside those of LXMERT, LXMERT-S, Hugging Face's LxmertForPreTraining and BERT (docs/tasks.md, The model).

They share their names; Hugging Face says `lxmert.` where the others say `bert.`, which `normalised_name` undoes.
"""

from msp_ds.model.weights.names import NameTable, layers

_TEXT = (
    ("backbone.text.word", "bert.embeddings.word_embeddings"),
    ("backbone.text.position", "bert.embeddings.position_embeddings"),
    ("backbone.text.norm", "bert.embeddings.LayerNorm"),
    ("backbone.text_pooler", "bert.pooler.dense"),
)

_REGIONS = (
    ("backbone.regions.feature", "bert.encoder.visn_fc.visn_fc"),
    ("backbone.regions.feature_norm", "bert.encoder.visn_fc.visn_layer_norm"),
    ("backbone.regions.box", "bert.encoder.visn_fc.box_fc"),
    ("backbone.regions.box_norm", "bert.encoder.visn_fc.box_layer_norm"),
)

_CROSS_BLOCKS = (
    # One set of weights looks both ways.
    ("cross.query", "visual_attention.att.query"),
    ("cross.key", "visual_attention.att.key"),
    ("cross.value", "visual_attention.att.value"),
    ("cross.output", "visual_attention.output.dense"),
    ("cross.norm", "visual_attention.output.LayerNorm"),
    ("text_self.query", "lang_self_att.self.query"),
    ("text_self.key", "lang_self_att.self.key"),
    ("text_self.value", "lang_self_att.self.value"),
    ("text_self.output", "lang_self_att.output.dense"),
    ("text_self.norm", "lang_self_att.output.LayerNorm"),
    ("region_self.query", "visn_self_att.self.query"),
    ("region_self.key", "visn_self_att.self.key"),
    ("region_self.value", "visn_self_att.self.value"),
    ("region_self.output", "visn_self_att.output.dense"),
    ("region_self.norm", "visn_self_att.output.LayerNorm"),
    ("text_feed_forward.widen", "lang_inter.dense"),
    ("text_feed_forward.narrow", "lang_output.dense"),
    ("text_feed_forward.norm", "lang_output.LayerNorm"),
    ("region_feed_forward.widen", "visn_inter.dense"),
    ("region_feed_forward.narrow", "visn_output.dense"),
    ("region_feed_forward.norm", "visn_output.LayerNorm"),
)

_STREAM_BLOCKS = (
    # A layer of BERT, as LXMERT's language and relation layers are.
    ("self_attention.query", "attention.self.query"),
    ("self_attention.key", "attention.self.key"),
    ("self_attention.value", "attention.self.value"),
    ("self_attention.output", "attention.output.dense"),
    ("self_attention.norm", "attention.output.LayerNorm"),
    ("feed_forward.widen", "intermediate.dense"),
    ("feed_forward.narrow", "output.dense"),
    ("feed_forward.norm", "output.LayerNorm"),
)

_CROSS_LAYERS = layers("backbone.layers", "bert.encoder.x_layers", _CROSS_BLOCKS)
_LANGUAGE_LAYERS = layers("backbone.language_layers", "bert.encoder.layer", _STREAM_BLOCKS)
_REGION_LAYERS = layers("backbone.region_layers", "bert.encoder.r_layers", _STREAM_BLOCKS)

_TOKEN_HEAD = (
    ("heads.token.transform.dense", "cls.predictions.transform.dense"),
    ("heads.token.transform.norm", "cls.predictions.transform.LayerNorm"),
    ("heads.token.decoder.weight", "cls.predictions.decoder.weight"),  # tied to the word embeddings on both sides
    ("heads.token.decoder.bias", "cls.predictions.bias"),
)

_REGION_HEAD = (
    ("heads.region.transform.dense", "obj_predict_head.transform.dense"),
    ("heads.region.transform.norm", "obj_predict_head.transform.LayerNorm"),
    ("heads.region.object_decoder", "obj_predict_head.decoder_dict.obj"),
    ("heads.region.attribute_decoder", "obj_predict_head.decoder_dict.attr"),
    ("heads.region.feature_decoder", "obj_predict_head.decoder_dict.feat"),
)

_MATCH_HEAD = (("heads.match.dense", "cls.seq_relationship"),)  # index 1 = matched on both sides

_OF_LXMERT_S_ALONE = (
    ("backbone.region_pooler", "bert.pooler_f.dense"),
    ("heads.topic.dense", "cls.seq_relationship_new"),
    ("heads.topic.norm", "cls.LayerNorm"),
)

LXMERT = NameTable(
    (*_TEXT, *_REGIONS, *_LANGUAGE_LAYERS, *_REGION_LAYERS, *_CROSS_LAYERS, *_TOKEN_HEAD, *_REGION_HEAD, *_MATCH_HEAD)
)
LXMERT_S = NameTable((*LXMERT.pairs, *_OF_LXMERT_S_ALONE))

# BERT has no regions and nothing that crosses; its layers are those of the text alone, or of a single stream.
# Its next-sentence head bears the match head's name, but not its meaning.
_SINGLE_STREAM = layers("backbone.layers", "bert.encoder.layer", _STREAM_BLOCKS)
BERT = NameTable((*_TEXT, *_LANGUAGE_LAYERS, *_SINGLE_STREAM, *_TOKEN_HEAD))
