"""Make the two tokenizer fixtures from tok_text.txt (public-domain tales).

Needs the sentencepiece package. The models differ in everything our code treats differently:
tok_bpe keeps spaces and bytes as they are, tok_unigram normalises (rules in tok_rules.tsv, a small
charsmap) and collapses spaces. Running this again gives equal vocabularies, not always equal bytes.
"""
import io
import os

import sentencepiece as spm

HERE = os.path.dirname(os.path.abspath(__file__))
COMMON = dict(
    byte_fallback=True,
    character_coverage=1.0,
    unk_id=0,
    bos_id=1,
    eos_id=2,
    pad_id=-1,
    num_threads=1,
    minloglevel=2,
)
MODELS = {
    "tok_bpe": dict(
        model_type="bpe",
        vocab_size=700,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<tale>", "<tale>s"],
    ),
    "tok_unigram": dict(
        model_type="unigram",
        vocab_size=600,
        normalization_rule_tsv="tok_rules.tsv",
        remove_extra_whitespaces=True,
    ),
}


def main():
    os.chdir(HERE)  # the trainer writes the path of the rules into the model
    with open("tok_text.txt", encoding="utf-8") as f:
        lines = [line.rstrip("\n") for line in f]
    for name, options in MODELS.items():
        os.makedirs(name, exist_ok=True)
        model = io.BytesIO()  # no file names: the trainer would write them into the model
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, **COMMON, **options
        )
        with open(os.path.join(name, "tokenizer.model"), "wb") as f:
            f.write(model.getvalue())


if __name__ == "__main__":
    main()
