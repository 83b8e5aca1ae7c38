"""Lightning with methods: python examples/lightning_module.py [MODEL] [FOLDER]."""

import sys

import lightning
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from steadytune import noisytune, smart
from steadytune.integrations.lightning import SteadyModuleMixin

SENTENCES = {
    "a fine film": 1,
    "a dull film": 0,
    "the plot was good": 1,
    "the plot was poor": 0,
    "not bad": 1,
    "not good": 0,
}


class Classifier(lightning.LightningModule):
    """An ordinary module, whose network is `self.model`."""

    def __init__(self, model, learning_rate):
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate

    def training_step(self, batch, batch_idx):  # noqa: ARG002 - Lightning's signature
        """The loss of a batch."""
        return self.model(**batch).loss

    def configure_optimizers(self):
        """One optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.0)


class SteadyClassifier(SteadyModuleMixin, Classifier):
    """The same with methods."""


def train(model, rows, collate, methods, folder, *, learning_rate=5e-5, seed=42, shuffle=True, **settings):
    """The Trainer of Lightning, with whatever arguments it takes."""
    loader = DataLoader(rows, batch_size=2, shuffle=shuffle, collate_fn=collate)
    module = SteadyClassifier(model, learning_rate, methods=methods, method_seed=seed)
    trainer = lightning.Trainer(default_root_dir=folder, gradient_clip_val=1.0, **settings)
    trainer.fit(module.train(), loader)
    return module.model


def main(name="google-bert/bert-base-uncased", folder="runs/lightning"):
    """Train a classifier on a few sentences and save it."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
    rows = [{**tokenizer(text), "labels": label} for text, label in SENTENCES.items()]
    train(model, rows, DataCollatorWithPadding(tokenizer), [noisytune(), smart()], folder, max_epochs=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
