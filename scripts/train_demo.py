#!/usr/bin/env python3
"""Train a small TransNormerLLM on plain text, from the tokenizer to a model folder.

The text has one paragraph per line and one blank line between stories.  The
script trains a SentencePiece tokenizer on it, trains a TransNormerLLM (v2
layout: fused q|k|v|u projection, decayed linear attention, LRPE in layer 0, GLU
without activation, tied embeddings) for a given number of minutes, and writes an
ordinary Hugging Face style folder that `tnl` can load.  It uses the GPU if there
is one and is content with a CPU.

  train:     train_demo.py --train tales-train.txt.xz --valid tales-valid.txt.xz \\
                           --out configs/tales --work /tmp/tales --minutes 110
  resume:    the same command again; --work holds the checkpoint
  evaluate:  train_demo.py --eval-only configs/tales --valid tales-valid.txt.xz
  sample:    train_demo.py --model configs/tales --sample "Once upon a time"
  check:     train_demo.py --self-test
"""
import argparse
import io
import json
import lzma
import math
import os
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

EOS = 2
EVAL_SEGMENT = 2048
THETA_LR = 1e-4


# ---------------------------------------------------------------- text and tokens

def read_text(path):
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "rb") as f:
        return f.read().decode("utf-8")


def split_stories(text):
    """Stories are separated by a blank line; each one ends with one newline."""
    return [s.strip("\n") + "\n" for s in text.split("\n\n") if s.strip()]


def train_tokenizer(text, vocab_size, threads):
    """BPE with byte fallback.  The text is taken as it is: nothing is normalised,
    no space is put in front, and a newline is a piece of its own, so decoding
    gives back exactly what was encoded."""
    import sentencepiece as spm
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()), model_writer=out,
        model_type="bpe", vocab_size=vocab_size, byte_fallback=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, user_defined_symbols=["\n"],
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=False, split_digits=True, character_coverage=1.0,
        max_sentence_length=1 << 20, num_threads=threads, minloglevel=1)
    return out.getvalue()


def load_tokenizer(path):
    import sentencepiece as spm
    return spm.SentencePieceProcessor(model_file=os.path.join(path, "tokenizer.model"))


class Stories:
    """Batches of consecutive segments from `rows` parallel streams of stories.

    Every row is one long stream of shuffled stories, cut into segments; the
    model's state is carried from one segment to the next, so the layers that
    hardly forget see contexts far longer than a segment.  A row starts again from
    an empty state after a log-uniform number of segments: half the time with a new
    story, half the time in the middle of one.
    """

    def __init__(self, stories, rows, length, longest, seed):
        self.stories, self.rows, self.length, self.longest = stories, rows, length, longest
        self.rng = random.Random(seed)
        self.queue, self.pool = [], []
        self.buffer = [[] for _ in range(rows)]
        # stagger the first restarts so that rows do not move in step
        self.left = [self.rng.randint(1, 32) for _ in range(rows)]

    def state_dict(self):
        return dict({k: getattr(self, k) for k in ("queue", "pool", "buffer", "left")}, rng=self.rng.getstate())

    def load_state_dict(self, d):
        d = dict(d)
        self.rng.setstate(d.pop("rng"))
        self.__dict__.update(d)

    def next_story(self):
        if not self.queue:
            self.queue = list(range(len(self.stories)))
            self.rng.shuffle(self.queue)
        story = self.stories[self.queue.pop()]
        # Mostly </s> ends a story, sometimes a blank line does, so that plain
        # text with several stories is no surprise to the model.
        return story + [EOS if self.rng.random() < 0.8 else story[-1]]

    def restart(self, row):
        if self.buffer[row]:
            self.pool.append(self.buffer[row])
        if self.pool and self.rng.random() < 0.5:
            self.buffer[row] = self.pool.pop(self.rng.randrange(len(self.pool)))
        else:
            self.buffer[row] = self.next_story()
        self.left[row] = int(math.exp(self.rng.uniform(0, math.log(self.longest + 1))))

    def batch(self):
        """Returns the ids [rows, length + 1] and which rows keep their state."""
        out, keep = [], []
        for r in range(self.rows):
            fresh = self.left[r] <= 0
            if fresh:
                self.restart(r)
            self.left[r] -= 1
            buf = self.buffer[r]
            while len(buf) <= self.length:
                buf = buf + self.next_story()
            out.append(buf[:self.length + 1])
            self.buffer[r] = buf[self.length:]
            keep.append(0.0 if fresh else 1.0)
        return torch.tensor(out), torch.tensor(keep)


# ------------------------------------------------------------------------- model

def make_config(vocab, layers, width, heads, head_dim, glu):
    return {
        "architectures": ["TransnormerForCausalLM"],
        "model_type": "transnormer",
        "vocab_size": vocab,
        "decoder_layers": layers,
        "decoder_embed_dim": width,
        "decoder_attention_heads": heads,
        "hidden_dim": heads * head_dim,
        "glu_dim": glu,
        "linear_use_lrpe_list": [1] + [0] * (layers - 1),
        "linear_act_fun": "swish",
        "norm_type": "simplermsnorm",
        "no_scale_embedding": True,
        "bias": False,
        "add_bos_token": False,
        "init_std": 0.02,
        "use_cache": True,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "torch_dtype": "bfloat16",
    }


def head_slopes(heads):
    def power_of_two(n):
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]
    if heads & (heads - 1) == 0:
        return power_of_two(heads)
    near = 1 << (heads.bit_length() - 1)
    return power_of_two(near) + power_of_two(2 * near)[0::2][:heads - near]


def layer_slopes(heads, layers, layer):
    factor = 1.0 - (layer / (layers - 1) if layers > 1 else 0.0) + 1e-5
    return torch.tensor(head_slopes(heads), dtype=torch.float64) * factor


def srms(x, eps=1e-6):
    """RMS norm without a weight, in 32 bits."""
    y = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def decay_tables(slope, block, blocks):
    """What the chunked form needs, per head, from slopes s > 0: the mask
    exp(-s (i-j)) for i >= j, the decays of queries and keys against the state at the
    block's edge, and the mix that turns (first state, sum of each block) into the
    state in front of each block and after the last."""
    i = torch.arange(block, dtype=slope.dtype, device=slope.device)
    s = slope.view(-1, 1, 1)
    gap = i.view(-1, 1) - i
    mask = torch.exp(-s * gap.clamp(min=0)) * (gap >= 0)
    q_decay = torch.exp(-s * (i + 1).view(-1, 1))
    k_decay = torch.exp(-s * (block - 1 - i).view(-1, 1))
    n = torch.arange(blocks + 1, dtype=slope.dtype, device=slope.device)
    steps = n.view(-1, 1) - n
    mix = torch.exp(-s * block * steps.clamp(min=0)) * (steps >= 0)
    return mask, q_decay, k_decay, mix


def lightning(q, k, v, state, slope, block, work=None):
    """o_t = q_t S_t with S_t = exp(-s) S_{t-1} + k_t v_t, block by block.

    q, k [B,H,T,K], v [B,H,T,V], state [B,H,K,V]; returns o and the last state.
    Inside a block: masked products; between blocks: the state.  Cost grows
    linearly with T.  `work` is the dtype of the products inside blocks; the state
    keeps the dtype it comes in."""
    T = q.shape[2]
    if T > block and T % block:
        cut = T - T % block
        o1, state = lightning(q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], state, slope, block, work)
        o2, state = lightning(q[:, :, cut:], k[:, :, cut:], v[:, :, cut:], state, slope, block, work)
        return torch.cat([o1, o2], 2), state
    C = min(block, T)
    N = T // C
    B, H, _, K = q.shape
    V = v.shape[3]
    acc = state.dtype
    work = work or acc
    mask, q_decay, k_decay, mix = (t.to(acc).unsqueeze(1) for t in decay_tables(slope, C, N))
    q, k = q.reshape(B, H, N, C, K), k.reshape(B, H, N, C, K)
    v = v.reshape(B, H, N, C, V)
    qw, kw, vw = q.to(work), k.to(work), v.to(work)
    o = ((qw @ kw.transpose(-1, -2)) * mask.to(work)) @ vw
    sums = (k.to(acc) * k_decay).to(work).transpose(-1, -2) @ vw
    sums = torch.cat([state.unsqueeze(2), sums.to(acc)], 2)
    states = (mix.squeeze(1) @ sums.reshape(B, H, N + 1, K * V)).view(B, H, N + 1, K, V)
    o = o.to(acc) + (qw @ states[:, :, :N].to(work)).to(acc) * q_decay
    return o.reshape(B, H, T, V), states[:, :, N]


def quadratic(q, k, v, state, slope):
    """The same by definition, for the self-test."""
    T = q.shape[2]
    mask, q_decay, k_decay, _ = decay_tables(slope, T, 1)
    o = ((q @ k.transpose(-1, -2)) * mask) @ v + (q * q_decay) @ state
    last = state * torch.exp(-slope * T).view(-1, 1, 1) + (k * k_decay).transpose(-1, -2) @ v
    return o, last


class Lrpe(nn.Module):
    """Learned rotary-like positions: x -> [x cos(theta t) | x sin(theta t)]."""

    def __init__(self, heads, head_dim):
        super().__init__()
        m = torch.arange(heads * head_dim, dtype=torch.float64)
        theta = 10000.0 ** (-2.0 * m / (heads * head_dim))
        self.theta = nn.Parameter(theta.float().view(heads, 1, head_dim))

    def forward(self, x):
        phase = self.theta * torch.arange(x.shape[2], device=x.device, dtype=self.theta.dtype).view(-1, 1)
        return torch.cat([x * phase.cos(), x * phase.sin()], -1)

    def rebase(self, state, steps):
        """Only differences of positions matter, so each segment counts from zero
        and the state is turned back by the segment's length instead."""
        c, s = (self.theta * steps).cos().transpose(-1, -2), (self.theta * steps).sin().transpose(-1, -2)
        a, b = state.chunk(2, 2)
        return torch.cat([a * c + b * s, b * c - a * s], 2)


class TokenMixer(nn.Module):
    def __init__(self, cfg, layer, block):
        super().__init__()
        d, h = cfg["decoder_embed_dim"], cfg["hidden_dim"]
        self.heads, self.hidden, self.block = cfg["decoder_attention_heads"], h, block
        self.qkvu_proj = nn.Linear(d, 4 * h, bias=False)
        self.out_proj = nn.Linear(h, d, bias=False)
        self.lrpe = Lrpe(self.heads, h // self.heads) if cfg["linear_use_lrpe_list"][layer] else None
        slope = layer_slopes(self.heads, cfg["decoder_layers"], layer)
        self.register_buffer("slope", slope.float(), persistent=False)

    def state_shape(self, rows):
        dh = self.hidden // self.heads
        return rows, self.heads, 2 * dh if self.lrpe else dh, dh

    def forward(self, x, state):
        B, T, _ = x.shape
        q, k, v, u = self.qkvu_proj(x).chunk(4, -1)
        work = q.dtype
        q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2) for t in (F.silu(q), F.silu(k), v))
        if self.lrpe is not None:
            q, k = self.lrpe(q), self.lrpe(k)
        with torch.autocast(x.device.type, enabled=False):
            o, state = lightning(q, k, v, state, self.slope, self.block, work)
        if self.lrpe is not None:
            state = self.lrpe.rebase(state, T)
        o = srms(o.transpose(1, 2).reshape(B, T, self.hidden))
        return self.out_proj(u * o.to(u.dtype)), state


class ChannelMixer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d, g = cfg["decoder_embed_dim"], cfg["glu_dim"]
        self.l1 = nn.Linear(d, g, bias=False)
        self.l2 = nn.Linear(d, g, bias=False)
        self.l3 = nn.Linear(g, d, bias=False)

    def forward(self, x):
        return self.l3(self.l1(x) * self.l2(x))


class Layer(nn.Module):
    def __init__(self, cfg, layer, block):
        super().__init__()
        self.token_mixer = TokenMixer(cfg, layer, block)
        self.channel_mixer = ChannelMixer(cfg)

    def forward(self, x, state):
        y, state = self.token_mixer(srms(x), state)
        x = x + y
        return x + self.channel_mixer(srms(x)), state


class Transnormer(nn.Module):
    def __init__(self, cfg, block=64):
        super().__init__()
        self.cfg = cfg
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(cfg["vocab_size"], cfg["decoder_embed_dim"])
        self.model.layers = nn.ModuleList(Layer(cfg, i, block) for i in range(cfg["decoder_layers"]))

    def init_weights(self):
        nn.init.normal_(self.model.embed_tokens.weight, std=self.cfg["init_std"])
        for name, p in self.named_parameters():
            if name.endswith(("out_proj.weight", "l3.weight")):
                nn.init.zeros_(p)
            elif name.endswith(("qkvu_proj.weight", "l1.weight", "l2.weight")):
                nn.init.normal_(p, std=p.shape[1] ** -0.5)

    def empty_state(self, rows):
        dev = self.model.embed_tokens.weight.device
        return [torch.zeros(l.token_mixer.state_shape(rows), device=dev) for l in self.model.layers]

    def forward(self, ids, states):
        x = self.model.embed_tokens(ids)
        out = []
        for layer, state in zip(self.model.layers, states):
            x, state = layer(x, state)
            out.append(state)
        return F.linear(srms(x), self.model.embed_tokens.weight), out

    def loss(self, ids, states, keep):
        states = [s * keep.view(-1, 1, 1, 1) for s in states]
        logits, states = self(ids[:, :-1], states)
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        return loss, [s.detach() for s in states]


# --------------------------------------------------------------------- optimizer

class Muon(torch.optim.Optimizer):
    """Momentum whose update is made near-orthogonal (Newton-Schulz), for matrices."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @staticmethod
    def orthogonal(g):
        x = g.bfloat16()
        tall = x.shape[-2] > x.shape[-1]
        if tall:
            x = x.mT
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            a = x @ x.mT
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
        return (x.mT if tall else x).to(g.dtype)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, beta = group["lr"], group["momentum"]
            for p in group["params"]:
                buf = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - beta)
                g = p.grad.lerp(buf, beta)
                parts = group.get("parts", 1)      # q, k, v and u are four matrices
                g = g.view(parts, -1, g.shape[1])
                g = self.orthogonal(g) * max(1, g.shape[1] / g.shape[2]) ** 0.5
                p.mul_(1 - lr * group["weight_decay"]).add_(g.view_as(p), alpha=-lr)


def make_optimizers(net, args):
    named = dict(net.named_parameters())
    fused = [p for n, p in named.items() if n.endswith("qkvu_proj.weight")]
    theta = [p for n, p in named.items() if n.endswith("theta")]
    embed = [net.model.embed_tokens.weight]
    taken = {id(p) for p in fused + theta + embed}
    plain = [p for p in named.values() if id(p) not in taken]
    muon = Muon([dict(params=fused, parts=4), dict(params=plain)], args.lr, weight_decay=args.weight_decay)
    adam = torch.optim.AdamW([dict(params=embed, lr=args.embed_lr, weight_decay=0.0),
                              dict(params=theta, lr=THETA_LR, weight_decay=0.0)], betas=(0.9, 0.98))
    for group in muon.param_groups + adam.param_groups:
        group["peak"] = group["lr"]
    return muon, adam


def schedule(p, warmup=0.015, decay=0.6):
    """Warm up, hold, then fall linearly to zero; p is the part of the run done."""
    return max(0.0, min(1.0, (p + 1e-3) / warmup, (1.0 - p) / decay))


# -------------------------------------------------------------------- evaluation

@torch.no_grad()
def nll_of(net, ids, device):
    """Sum of -log p(ids[t] | ids[:t]) over t >= 1: one sequence, state carried."""
    states, total = net.empty_state(1), 0.0
    ids = torch.tensor(ids, device=device)
    for a in range(0, len(ids) - 1, EVAL_SEGMENT):
        part = ids[a:a + EVAL_SEGMENT + 1]
        logits, states = net(part[None, :-1], states)
        total += F.cross_entropy(logits[0].float(), part[1:], reduction="sum").double().item()
    return total


def evaluate(net, sp, text, device, by_story=False):
    """The figures of the model card: the whole text as one sequence of tokens,
    nothing added, each token after the first predicted from all before it."""
    net.eval()
    ids = sp.encode(text)
    nll = nll_of(net, ids, device)
    size = len(text.encode("utf-8"))
    res = dict(tokens=len(ids), predicted=len(ids) - 1, bytes=size, nats_per_token=nll / (len(ids) - 1),
               perplexity=math.exp(nll / (len(ids) - 1)), bits_per_byte=nll / math.log(2) / size)
    if by_story:
        runs = [sp.encode(s) for s in split_stories(text)]
        total = sum(nll_of(net, r, device) for r in runs)
        res["nats_per_token_fresh_state_each_story"] = total / sum(len(r) - 1 for r in runs)
    net.train()
    return res


@torch.no_grad()
def sample(net, sp, prompt, count, temperature, top_p, seed, device):
    gen = torch.Generator().manual_seed(seed)
    ids = sp.encode(prompt) or [EOS]
    states = net.empty_state(1)
    logits, states = net(torch.tensor([ids], device=device), states)
    made = []
    for _ in range(count):
        p = torch.softmax(logits[0, -1].float().cpu() / max(temperature, 1e-5), -1)
        p, order = p.sort(descending=True)
        p[p.cumsum(0) - p > top_p] = 0
        tok = order[torch.multinomial(p, 1, generator=gen)].item()
        if tok == EOS:
            break
        made.append(tok)
        logits, states = net(torch.tensor([[tok]], device=device), states)
    return sp.decode(ids + made)


# ------------------------------------------------------------------ model folder

def write_file(path, data):
    """Replace a file in one step, so that a reader never sees half of it."""
    tmp = f"{path}.tmp{os.getpid()}"
    with open(tmp, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    os.replace(tmp, path)


def to_json(obj):
    return json.dumps(obj, indent=2) + "\n"


def export(net, tok_bytes, folder, card=None):
    from safetensors.torch import save
    os.makedirs(folder, exist_ok=True)
    tensors = {n: p.detach().cpu().to(torch.bfloat16).contiguous() for n, p in net.named_parameters()}
    files = {
        "config.json": to_json(net.cfg),
        "generation_config.json": to_json(dict(bos_token_id=1, eos_token_id=EOS, pad_token_id=0, do_sample=True,
                                               temperature=0.8, top_p=0.95, max_new_tokens=512)),
        "tokenizer_config.json": to_json(dict(
            add_bos_token=False, add_eos_token=False, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
            clean_up_tokenization_spaces=False, sp_model_kwargs={}, model_max_length=1000000)),
        "tokenizer.model": tok_bytes,
        "model.safetensors": save(tensors, metadata={"format": "pt"}),
    }
    if card:
        files["README.md"] = card
    for name, data in files.items():
        write_file(os.path.join(folder, name), data)
    return sum(len(d) for d in files.values())


def load_model(folder, device):
    from safetensors.torch import load_file
    with open(os.path.join(folder, "config.json")) as f:
        cfg = json.load(f)
    net = Transnormer(cfg)
    weights = load_file(os.path.join(folder, "model.safetensors"))
    net.load_state_dict({n: t.float() for n, t in weights.items()})
    return net.to(device), load_tokenizer(folder)


def rounded_copy(net, device):
    """The model as exported: weights rounded to bf16, arithmetic in fp32."""
    copy = Transnormer(net.cfg)
    copy.load_state_dict({n: p.detach().to(torch.bfloat16).float() for n, p in net.state_dict().items()})
    return copy.to(device)


CARD = """# {name}

A TransNormerLLM (v2 layout) with {params:,} parameters, trained from nothing by
`scripts/train_demo.py`.

| | |
|---|---|
| layers / width / heads / GLU | {layers} / {width} / {heads} heads of {head_dim} / {glu} |
| vocabulary | {vocab} SentencePiece BPE pieces with byte fallback; no prefix space, newline is a piece |
| weights | bf16, embedding tied to the output |
| recurrent state | {state_kib:,} KiB fp32 for one sequence of any length |
| training | {steps:,} steps of {batch:,} tokens, {tokens_m:.1f} M tokens, {epochs:.1f} times over {train_mb:.1f} MB of text |
| time | {minutes:.0f} minutes on {where} |

Held-out text as one sequence, state carried from beginning to end, nothing added, every token
but the first predicted, weights as shipped (bf16), arithmetic in fp32:

| bytes | tokens predicted | nats per token | perplexity | bits per byte |
|---|---|---|---|---|
| {bytes:,} | {predicted:,} | {nats_per_token:.4f} | {perplexity:.2f} | {bits_per_byte:.4f} |

Made with

```
{command}
```

A sample (temperature 0.8, top-p 0.95, not picked):

{story}
"""


def quote(text):
    return "\n>\n".join("> " + line for line in text.strip().split("\n") if line.strip())


# ---------------------------------------------------------------------- training

def describe(device):
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def train(args, device):
    from tqdm import tqdm
    os.makedirs(args.work, exist_ok=True)
    text, valid = read_text(args.train), read_text(args.valid)
    tok_path = os.path.join(args.work, "tokenizer.model")
    if not os.path.exists(tok_path):
        print("training the tokenizer ...", flush=True)
        write_file(tok_path, train_tokenizer(text, args.vocab, os.cpu_count()))
    with open(tok_path, "rb") as f:
        tok_bytes = f.read()
    sp = load_tokenizer(args.work)
    valid_ids = sp.encode(valid)
    if sp.decode(valid_ids) != valid:
        raise SystemExit("the tokenizer does not give back the text it encoded")
    stories = [sp.encode(s) for s in split_stories(text)]
    total = sum(map(len, stories))
    print(f"{len(stories):,} stories, {total:,} tokens, {len(text) / total:.2f} bytes per token; "
          f"held out: {len(valid_ids):,} tokens", flush=True)

    torch.manual_seed(args.seed)
    cfg = make_config(sp.vocab_size(), args.layers, args.width, args.heads, args.head_dim, args.glu)
    net = Transnormer(cfg)
    net.init_weights()
    net.to(device)
    opts = make_optimizers(net, args)
    data = Stories(stories, args.rows, args.seq, max(1, args.longest // args.seq), args.seed)
    states, step, elapsed = net.empty_state(args.rows), 0, 0.0
    ckpt_path = os.path.join(args.work, "checkpoint.pt")
    if os.path.exists(ckpt_path):
        ck = torch.load(ckpt_path, map_location=device, weights_only=False)
        if ck["cfg"] != cfg:
            raise SystemExit(f"{ckpt_path} is for a model of another shape; use another --work")
        net.load_state_dict(ck["net"])
        for opt, saved in zip(opts, ck["opts"]):
            opt.load_state_dict(saved)
        data.load_state_dict(ck["data"])
        states, step, elapsed = ck["states"], ck["step"], ck["elapsed"]
        print(f"going on from step {step}, {elapsed / 60:.1f} minutes in", flush=True)

    params = sum(p.numel() for p in net.parameters())
    batch = args.rows * args.seq
    print(f"{params:,} parameters, {batch:,} tokens a step, {args.minutes:g} minutes on {describe(device)}", flush=True)
    loss_fn = torch.compile(net.loss) if args.compile else net.loss
    amp = torch.autocast(device.type, dtype=torch.bfloat16, enabled=not args.fp32)

    def progress():
        return step / args.steps if args.steps else elapsed / (60 * args.minutes)

    def save():
        ck = dict(cfg=cfg, net=net.state_dict(), opts=[o.state_dict() for o in opts], data=data.state_dict(),
                  states=states, step=step, elapsed=elapsed)
        torch.save(ck, ckpt_path + ".tmp")
        os.replace(ckpt_path + ".tmp", ckpt_path)
        if args.early:
            export(net, tok_bytes, args.early)
        res = evaluate(rounded_copy(net, device), sp, valid[:50000], device)
        line = dict(step=step, tokens=step * batch, epoch=round(step * batch / total, 3), minutes=round(elapsed / 60, 2),
                    train=round(recent, 4), valid=round(res["nats_per_token"], 4), bpb=round(res["bits_per_byte"], 4))
        tqdm.write(json.dumps(line))
        with open(os.path.join(args.work, "log.jsonl"), "a") as f:
            f.write(json.dumps(line) + "\n")

    recent = float("nan")
    last_save = clock = time.monotonic()
    bar = tqdm(total=1.0, initial=round(progress(), 4), mininterval=1,
               bar_format="{percentage:5.1f}%|{bar:20}| {elapsed}{postfix}")
    while progress() < 1.0:
        for group in opts[0].param_groups + opts[1].param_groups:
            group["lr"] = group["peak"] * schedule(progress())
        ids, keep = data.batch()
        ids, keep = ids.to(device), keep.to(device)
        with amp:
            loss, states = loss_fn(ids, states, keep)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(opts[1].param_groups[0]["params"], 1.0)
        for opt in opts:
            opt.step()
        for p in net.parameters():
            p.grad = None
        value = loss.item()
        if not math.isfinite(value):
            raise SystemExit(f"the loss is {value} at step {step}")
        recent = value if recent != recent else 0.98 * recent + 0.02 * value
        step += 1
        now = time.monotonic()
        speed, elapsed, clock = batch / (now - clock), elapsed + now - clock, now
        bar.set_postfix_str(f"step {step} loss {recent:.3f} {speed:,.0f} tok/s epoch {step * batch / total:.2f}", refresh=False)
        bar.update(min(1.0, progress()) - bar.n)
        if now - last_save > 60 * args.save_minutes:
            save()
            last_save = time.monotonic()
    bar.close()
    if recent == recent:
        save()
    finish(args, device, net, sp, tok_bytes, valid, dict(
        steps=step, batch=batch, minutes=elapsed / 60, epochs=step * batch / total, train_mb=len(text) / 1e6))


def finish(args, device, net, sp, tok_bytes, valid, run):
    """Export the model with its card."""
    cfg, final = net.cfg, rounded_copy(net, device)
    res = evaluate(final, sp, valid, device, by_story=True)
    print(to_json(res))
    story = sample(final, sp, args.prompt, 220, 0.8, 0.95, args.seed, device)
    h = cfg["hidden_dim"] // cfg["decoder_attention_heads"]
    state = sum(s.numel() for s in net.empty_state(1)) * 4 // 1024
    length = f"--steps {args.steps}" if args.steps else f"--minutes {args.minutes:g}"
    command = (f"python3 scripts/train_demo.py --train TRAIN.txt --valid VALID.txt --out DIR --work WORK \\\n"
               f"    {length} --layers {args.layers} --width {args.width} --heads {args.heads} "
               f"--head-dim {args.head_dim} --glu {args.glu} --rows {args.rows} --seq {args.seq}")
    card = CARD.format(
        params=sum(p.numel() for p in net.parameters()), layers=cfg["decoder_layers"], width=cfg["decoder_embed_dim"],
        heads=cfg["decoder_attention_heads"], head_dim=h, glu=cfg["glu_dim"], vocab=cfg["vocab_size"],
        state_kib=state, tokens_m=run["steps"] * run["batch"] / 1e6, where=describe(device),
        name=os.path.basename(os.path.normpath(args.out)), story=quote(story), command=command, **run, **res)
    size = export(net, tok_bytes, args.out, card)
    print(f"{args.out}: {size / 1e6:.2f} MB\n\n{story}")


# --------------------------------------------------------------------- self-test

def self_test():
    """Chunked against quadratic form in fp64; LRPE against absolute positions;
    one pass against token by token; the Stories stream."""
    gen, rng = torch.Generator().manual_seed(1), random.Random(1)

    def rand(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64)
    worst = 0.0
    for _ in range(40):
        B, H, T = rng.randint(1, 2), rng.choice([1, 2, 3, 4, 6]), rng.randint(1, 70)
        K, V, block, L = rng.randint(1, 9), rng.randint(1, 9), rng.randint(1, 33), rng.randint(1, 5)
        slope = layer_slopes(H, L, rng.randrange(L))
        q, k, v, s = rand(B, H, T, K), rand(B, H, T, K), rand(B, H, T, V), rand(B, H, K, V)
        a, sa = lightning(q, k, v, s, slope, block)
        b, sb = quadratic(q, k, v, s, slope)
        cut = rng.randint(0, T)
        c, sc = [], s
        for i, j in ((0, cut), (cut, T)):
            if j > i:
                o, sc = lightning(q[:, :, i:j], k[:, :, i:j], v[:, :, i:j], sc, slope, block)
                c.append(o)
        for x, y in ((a, b), (sa, sb), (torch.cat(c, 2), b), (sc, sb)):
            worst = max(worst, ((x - y).abs().max() / (1 + y.abs().max())).item())
    print(f"chunked against quadratic form: worst relative difference {worst:.1e}")
    assert worst < 1e-12

    lrpe, T, cut = Lrpe(2, 4).double(), 23, 9
    q, k, v = rand(1, 2, T, 4), rand(1, 2, T, 4), rand(1, 2, T, 3)
    slope, zero = layer_slopes(2, 3, 0), torch.zeros(1, 2, 8, 3, dtype=torch.float64)
    with torch.no_grad():
        want, _ = quadratic(lrpe(q), lrpe(k), v, zero, slope)
        a, s = lightning(lrpe(q[:, :, :cut]), lrpe(k[:, :, :cut]), v[:, :, :cut], zero, slope, 4)
        b, _ = lightning(lrpe(q[:, :, cut:]), lrpe(k[:, :, cut:]), v[:, :, cut:], lrpe.rebase(s, cut), slope, 4)
    diff = (torch.cat([a, b], 2) - want).abs().max().item()
    print(f"positions counted per segment against absolute ones: {diff:.1e}")
    assert diff < 1e-6

    torch.manual_seed(3)
    net = Transnormer(make_config(50, 3, 24, 3, 8, 40), block=8)
    net.init_weights()
    for p in net.parameters():
        if p.abs().max() == 0:
            nn.init.normal_(p, std=0.1)
    ids = torch.randint(0, 50, (1, 41))
    with torch.no_grad():
        whole, _ = net(ids, net.empty_state(1))
        states, steps = net.empty_state(1), []
        for t in range(ids.shape[1]):
            o, states = net(ids[:, t:t + 1], states)
            steps.append(o)
    diff = (whole - torch.cat(steps, 1)).abs().max().item()
    print(f"whole pass against token by token (fp32): {diff:.1e}")
    assert diff < 1e-3

    data = Stories([[10 + i] * (3 + i) + [3] for i in range(20)], 3, 8, 4, 1)
    last = None
    for _ in range(200):
        ids, keep = data.batch()
        for r in range(3):
            assert last is None or not keep[r] or ids[r, 0] == last[r, -1], "segments of a row must follow each other"
        last = ids
    print("ok")


# --------------------------------------------------------------------------- main

def parse_args():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = ap.add_argument_group("files")
    files.add_argument("--train", metavar="FILE", help="training text, plain or .xz")
    files.add_argument("--valid", metavar="FILE", help="held-out text, plain or .xz")
    files.add_argument("--out", metavar="DIR", default="tales", help="model folder to write (default: %(default)s)")
    files.add_argument("--work", metavar="DIR", default="train-work", help="checkpoint, tokenizer and log (default: %(default)s)")
    files.add_argument("--early", metavar="DIR", help="also write a model folder at every checkpoint")
    size = ap.add_argument_group("model")
    size.add_argument("--vocab", type=int, default=4096, help="pieces of the tokenizer (default: %(default)s)")
    size.add_argument("--layers", type=int, default=8, help="default: %(default)s")
    size.add_argument("--width", type=int, default=256, help="default: %(default)s")
    size.add_argument("--heads", type=int, default=4, help="default: %(default)s")
    size.add_argument("--head-dim", type=int, default=64, help="default: %(default)s")
    size.add_argument("--glu", type=int, default=704, help="width of the GLU (default: %(default)s)")
    run = ap.add_argument_group("training")
    run.add_argument("--minutes", type=float, default=110, help="length of the run; the learning rate follows the clock (default: %(default)s)")
    run.add_argument("--steps", type=int, help="stop after so many steps instead, the learning rate follows the steps")
    run.add_argument("--rows", type=int, default=16, help="parallel streams (default: %(default)s)")
    run.add_argument("--seq", type=int, default=512, help="tokens of a stream in one step (default: %(default)s)")
    run.add_argument("--longest", type=int, default=100000, help="tokens after which a state is dropped at the latest (default: %(default)s)")
    run.add_argument("--lr", type=float, default=0.02, help="Muon, for matrices (default: %(default)s)")
    run.add_argument("--embed-lr", type=float, default=0.003, help="AdamW, for the embedding (default: %(default)s)")
    run.add_argument("--weight-decay", type=float, default=0.1, help="default: %(default)s")
    run.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    run.add_argument("--save-minutes", type=float, default=10, help="time between checkpoints (default: %(default)s)")
    run.add_argument("--fp32", action="store_true", help="no bf16 products in training")
    run.add_argument("--no-compile", dest="compile", action="store_false", help="do not use torch.compile")
    run.add_argument("--threads", type=int, help="CPU threads")
    run.add_argument("--device", help="cpu, cuda, ... (default: cuda if there is one)")
    other = ap.add_argument_group("instead of training")
    other.add_argument("--eval-only", metavar="DIR", help="loss of this model folder on --valid")
    other.add_argument("--model", metavar="DIR", help="model folder for --sample")
    other.add_argument("--sample", metavar="PROMPT", help="print a continuation")
    other.add_argument("--tokens", type=int, default=300, help="length of the sample (default: %(default)s)")
    other.add_argument("--temperature", type=float, default=0.8, help="default: %(default)s")
    other.add_argument("--top-p", type=float, default=0.95, help="default: %(default)s")
    other.add_argument("--prompt", default="Once upon a time", help="prompt of the card's sample (default: %(default)s)")
    other.add_argument("--self-test", action="store_true", help="check the attention against its definition and exit")
    args = ap.parse_args()
    if not (args.self_test or args.eval_only or args.sample is not None or args.train):
        ap.error("nothing to do: give --train and --valid, --eval-only, --sample or --self-test")
    if (args.train or args.eval_only) and not args.valid:
        ap.error("--valid FILE is needed")
    if args.sample is not None and not args.model:
        ap.error("--sample needs --model DIR")
    return args


def main():
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if args.self_test:
        self_test()
    elif args.eval_only:
        net, sp = load_model(args.eval_only, device)
        print(to_json(evaluate(net, sp, read_text(args.valid), device, by_story=True)), end="")
    elif args.sample is not None:
        net, sp = load_model(args.model, device)
        print(sample(net, sp, args.sample, args.tokens, args.temperature, args.top_p, args.seed, device))
    else:
        train(args, device)


if __name__ == "__main__":
    main()
