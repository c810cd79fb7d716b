"""CoCa in float64 NumPy, written from the paper and independent of the modules it checks."""

import math

import numpy as np


def layer_norm(x, p):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attend(x, source, p, heads, visible=None):
    """One example: queries x [t, d] look at source [s, c]; visible is a set of keys per query."""
    q, k, v = dense(x, p["query"]), dense(source, p["key"]), dense(source, p["value"])
    size = q.shape[1] // heads
    out = np.zeros_like(q)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for t in range(len(x)):
            keys = list(range(len(source))) if visible is None else visible[t]
            scores = k[keys, part] @ q[t, part] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            out[t, part] = weights / weights.sum() @ v[keys, part]
    return dense(out, p["out"])


def blocks(x, layers, heads, visible=None, context=None):
    for p in each(layers):
        y = layer_norm(x, p["self_attention_norm"])
        x = x + attend(y, y, p["self_attention"], heads, visible)
        if "cross_attention" in p:
            y = layer_norm(x, p["cross_attention_norm"])
            x = x + attend(y, context, p["cross_attention"], heads)
        y = layer_norm(x, p["mlp_norm"])
        x = x + dense(gelu(dense(y, p["mlp"]["up"])), p["mlp"]["down"])
    return x


def each(layers):
    """The parameters of each layer; of groups of layers, each layer of a group is a stack."""
    stacks = [layers[name] for name in sorted(layers) if name.startswith("layer_")] or [layers]
    for i in range(len(stacks[0]["mlp_norm"]["scale"])):
        yield from (pick(stack, i) for stack in stacks)


def pick(tree, i):
    return {k: pick(v, i) if isinstance(v, dict) else v[i] for k, v in tree.items()}


def pool(tokens, p, heads):
    return layer_norm(attend(p["queries"], tokens, p["attention"], heads), p["norm"])


def coca(config, p, pixels, ids):
    """One image [h, w, 3] and one text [t] -> (image embedding, text embedding, logits)."""
    size, text = config.image.patch, config.text
    grid = config.image.size // size
    cuts = [
        pixels[r * size : (r + 1) * size, c * size : (c + 1) * size].ravel()
        for r in range(grid)
        for c in range(grid)
    ]
    enc = p["image_encoder"]
    x = dense(np.array(cuts), enc["patch_embedding"]) + enc["positions"]
    x = blocks(x, enc["transformer"]["layers"], config.image.num_heads)
    tokens = layer_norm(x, enc["norm"])
    context = tokens
    if config.pooler.caption_queries:
        context = pool(tokens, p["caption_pooler"], config.pooler.num_heads)
    source = context if config.pooler.kind == "cascade" else tokens
    image = pool(source, p["contrastive_pooler"], config.pooler.num_heads)[0]

    dec, length = p["decoder"], len(ids)
    real = [t for t in range(length) if ids[t] != text.pad_id]
    x = dec["embedding"][ids] + dec["positions"][:length]
    x = np.concatenate([x, [dec["cls"] + dec["positions"][-1]]])
    visible = [list(range(t + 1)) for t in range(length)] + [[*real, length]]
    x = blocks(x, dec["unimodal"]["layers"], text.num_heads, visible)
    cls = layer_norm(x[-1], dec["cls_norm"])
    x = blocks(x[:-1], dec["multimodal"]["layers"], text.num_heads, visible[:-1], context)
    kernel = dec["embedding"].T if text.tie_embeddings else dec["lm_head"]
    logits = layer_norm(x, dec["norm"]) @ kernel
    return image / np.linalg.norm(image), cls / np.linalg.norm(cls), logits
