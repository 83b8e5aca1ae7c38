"""The Trainer of Transformers with methods: python examples/trainer.py [MODEL] [FOLDER]."""

import sys

from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainingArguments

from steadytune import SteadyTrainer, noisytune, smart

SENTENCES = {
    "a fine film": 1,
    "a dull film": 0,
    "the plot was good": 1,
    "the plot was poor": 0,
    "not bad": 1,
    "not good": 0,
}


def train(model, rows, collate, methods, folder, **settings):
    """Train as usual; `methods` is the one argument more."""
    arguments = TrainingArguments(output_dir=folder, per_device_train_batch_size=2, report_to=[], **settings)
    trainer = SteadyTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, methods=methods)
    print(trainer.explain())
    trainer.train()
    return trainer.model


def main(name="google-bert/bert-base-uncased", folder="runs/trainer"):
    """Train a classifier on a few sentences and save it."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
    rows = [{**tokenizer(text), "labels": label} for text, label in SENTENCES.items()]
    train(model, rows, DataCollatorWithPadding(tokenizer), [noisytune(), smart()], folder, num_train_epochs=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
