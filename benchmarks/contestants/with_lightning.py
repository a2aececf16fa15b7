"PyTorch Lightning"

import logging, warnings
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_summary import ModelSummary
from stock import Images
from torch.utils.data import DataLoader

NAME, PACKAGE = 'Lightning', 'lightning'
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
warnings.filterwarnings('ignore', module='lightning')


class Classifier(LightningModule):
    def __init__(self, model, lr, example=None):
        super().__init__()
        self.model, self.lr, self.example_input_array = model, lr, example

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, i):
        xb, yb = batch
        preds = self.model(xb)
        loss = F.cross_entropy(preds, yb)
        self.log_dict(
            {'loss': loss, 'accuracy': (preds.argmax(1) == yb).float().mean()},
            on_step=False,
            on_epoch=True,
            batch_size=len(xb),
        )
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


def fit(model, batches, lr, epochs):
    trainer = Trainer(
        max_epochs=epochs,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        barebones=False,
    )
    trainer.fit(Classifier(model, lr), DataLoader(list(batches), batch_size=None))
    return trainer.callback_metrics['loss'].item(), trainer.callback_metrics[
        'accuracy'
    ].item()


def loader(x, y, bs, mean, std):
    "The loader is the user's own: PyTorch's"
    return DataLoader(Images(x, y, mean, std), bs, shuffle=True)


def summary(model, xb):
    return str(ModelSummary(Classifier(model, 0.01, xb), max_depth=2))
