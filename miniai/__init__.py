__version__ = "0.1.0"

from importlib import import_module as _import_module

# Public names by module; imported when they are first asked for (PEP 562), so that `import miniai` costs nothing.
_names = {
    'xtras': ['map_tensors', 'plot_style', 'same_random_state', 'set_seed', 'to_cpu', 'clean_mem', 'versions'],
    'datasets': ['DataLoaders', 'TensorLoader', 'get_dls', 'load_dd', 'show_image', 'show_images'],
    'conv': ['def_device', 'to_device'],     # `miniai.conv` is the module; the function is `miniai.conv.conv`
    'learner': ['Accuracy', 'Callback', 'CancelBatchException', 'CancelEpochException', 'CancelFitException', 'DeviceCB', 'History', 'Learner',
                'MetricsCB', 'MomentumLearner', 'ProgressCB', 'SingleBatchCB', 'TerminateOnNaN', 'TrainCB', 'TrainLearner', 'with_cbs'],
    'activations': ['ActivationStats', 'Hook', 'Hooks', 'HooksCallback'],
    'init': ['BatchTransformCB', 'GeneralRelu', 'get_model', 'init_weights', 'lsuv_init'],
    'sgd': ['BatchSchedCB', 'EpochSchedCB', 'RecorderCB'],
    'resnet': ['GlobalAvgPool', 'ResBlock', 'act_gr', 'get_resnet'],
    'summary': ['Summary', 'summarize'],
    'augment': ['CapturePreds', 'RandCopy', 'RandCrop', 'RandErase', 'RandFlip', 'TTACB', 'rand_copy', 'rand_crop', 'rand_erase', 'rand_flip', 'tfm_batch'],
    'accel': ['ChannelsLast', 'Compile', 'GradAccum', 'GradClip', 'KeepMemory', 'MixedPrecision'],
    'checkpoint': ['BestWeightsCB', 'CheckpointCB', 'EarlyStoppingCB', 'ExplainNaN'],
    'recipes': ['Recipe', 'recipe_learner'],
    'train': ['load_run', 'resume_training', 'run_training'],
}
_where = {name: module for module,names in _names.items() for name in names}
__all__ = ['__version__', *_where]

def __getattr__(name):
    if name in _where: return getattr(_import_module(f'miniai.{_where[name]}'), name)
    if name in _names: return _import_module(f'miniai.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

def __dir__(): return sorted({*globals(), *_where, *_names})
