"""An encoder-decoder with methods: python examples/seq2seq_trainer.py [MODEL] [FOLDER]."""

import sys

from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from steadytune import SteadyMixin, noisytune, smart

ANSWERS = {
    "what color is the sky ?": "blue",
    "what color is the grass ?": "it is green",
    "what color is a rose ?": "red",
}


class SteadySeq2SeqTrainer(SteadyMixin, Seq2SeqTrainer):
    """The Trainer for encoder-decoders, with methods."""


def train(model, rows, collate, methods, folder, **settings):
    """Train as usual; `methods` is the one argument more."""
    arguments = Seq2SeqTrainingArguments(output_dir=folder, per_device_train_batch_size=2, report_to=[], **settings)
    trainer = SteadySeq2SeqTrainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collate, methods=methods
    )
    trainer.train()
    return trainer.model


def main(name="google-t5/t5-small", folder="runs/seq2seq"):
    """Train on a few questions and save the model."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSeq2SeqLM.from_pretrained(name)
    rows = [tokenizer(question, text_target=answer) for question, answer in ANSWERS.items()]
    collate = DataCollatorForSeq2Seq(tokenizer, model=model)
    train(model, rows, collate, [noisytune(), smart()], folder, num_train_epochs=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
