"""How a deep-learning training framework works: a package made of notebooks.

`_names` is the one list of public names. They are what `from miniai.all import *` gives, what
`miniai.…` finds, and what the reference on the website shows. More is in the modules, for whoever
changes the library.
"""
from importlib import import_module as _import_module

__version__ = "0.2.0"

# By module, from the ground up. A name is imported when it is first asked for (PEP 562), so that
# `import miniai` costs nothing. `miniai.conv` is the module; the function is `miniai.conv.conv`.
_names = {
    'xtras': ['clean_mem', 'map_tensors', 'plot_style', 'same_random_state', 'set_seed', 'to_cpu',
              'versions'],
    'conv': ['def_device', 'device_of', 'to_device'],
    'drawing': ['get_grid', 'show_image', 'show_images', 'subplots'],
    'pictures': ['Form', 'open_picture', 'pixel_stats', 'to_pixels'],
    'splits': ['stratified'],
    'listing': [],
    'sources': [],
    'datasets': ['DataLoaders', 'TensorLoader', 'collate_dict', 'embedded_path', 'get_dls',
                 'inplace', 'load_dd'],
    'events': ['Callback', 'CancelBatchException', 'CancelEpochException', 'CancelFitException',
               'batch_loss', 'n_items', 'run_cbs', 'with_cbs'],
    'guards': ['check_classes'],
    'preserve': ['trial', 'unchanged'],
    'history': ['History', 'SaveHistoryCB'],
    'progress': ['LossCurve', 'ProgressCB'],
    'finder': ['LRFinderCB', 'find_lr'],
    'learner': ['Accuracy', 'DeviceCB', 'Learner', 'MetricsCB', 'MomentumLearner',
                'SingleBatchCB', 'TerminateOnNaN', 'TrainCB', 'TrainLearner'],
    'activations': ['ActivationStats', 'Hook', 'Hooks', 'HooksCallback', 'append_stats'],
    'sgd': ['Adam', 'AdamW', 'BaseSchedCB', 'BatchSchedCB', 'EpochSchedCB', 'RMSprop',
            'RecorderCB', 'SGD', 'SimpleOptimizer'],
    'init': ['BatchTransformCB', 'GeneralRelu', 'get_model', 'init_weights', 'lsuv_init'],
    'augment': ['CapturePreds', 'RandCopy', 'RandCrop', 'RandErase', 'RandFlip', 'TTACB', 'hflip',
                'rand_copy', 'rand_crop', 'rand_erase', 'rand_flip', 'tfm_batch'],
    'resnet': ['GlobalAvgPool', 'ResBlock', 'act_gr', 'get_resnet'],
    'counting': ['FORMULAS', 'OpMode', 'Watcher'],
    'dead': [],
    'undo': ['untouched'],
    'rows': ['SummaryRow'],
    'summary': ['Summary', 'summarize'],
    'distributed': ['AccelerateCB', 'Sharded', 'from_main', 'whole_batch_norm'],
    'accel': ['ChannelsLast', 'Compile', 'GradAccum', 'GradClip', 'KeepMemory', 'MixedPrecision',
              'fast', 'low_precision'],
    'state': ['CheckpointError', 'read_checkpoint', 'read_weights', 'write_checkpoint',
              'write_weights'],
    'stopping': ['BestWeightsCB', 'EarlyStoppingCB', 'ExplainNaN'],
    'checkpoint': ['CheckpointCB'],
    'recipes': ['FlipInTurn', 'RECIPES', 'Recipe', 'Whitening', 'narrow_net', 'recipe_learner'],
    'models': ['MODELS', 'build_model'],
    'defaults': [],
    'folders': [],
    'runs': ['Prediction', 'Run', 'load_run'],
    'cli': ['resume_training', 'run_training'],
    'train': [],
}
_where = {name: module for module,names in _names.items() for name in names}
__all__ = ['__version__', *_where]

def __getattr__(name):
    if name in _where: return getattr(_import_module(f'miniai.{_where[name]}'), name)
    if name in _names: return _import_module(f'miniai.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

def __dir__(): return sorted({*globals(), *_where, *_names})
