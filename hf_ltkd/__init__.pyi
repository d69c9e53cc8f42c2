# The public names: type checkers read them here, and lazy_loader when one is first used.
from . import (
    analysis as analysis,
)
from . import (
    cli as cli,
)
from . import (
    data as data,
)
from . import (
    groups as groups,
)
from . import (
    hub as hub,
)
from . import (
    losses as losses,
)
from . import (
    metrics as metrics,
)
from . import (
    models as models,
)
from . import (
    teacher as teacher,
)
from . import (
    trainer as trainer,
)
from . import (
    utils as utils,
)
from . import (
    workflow as workflow,
)
from .data import (
    ImageDataset as ImageDataset,
)
from .data import (
    LazyImageDataset as LazyImageDataset,
)
from .data import (
    LongTailSplit as LongTailSplit,
)
from .data import (
    SegmentationDataset as SegmentationDataset,
)
from .data import (
    cifar100_lt as cifar100_lt,
)
from .data import (
    class_counts as class_counts,
)
from .data import (
    imagenet_lt as imagenet_lt,
)
from .data import (
    long_tailed_counts as long_tailed_counts,
)
from .data import (
    make_long_tailed as make_long_tailed,
)
from .data import (
    read_image_list as read_image_list,
)
from .data import (
    read_mask_folder as read_mask_folder,
)
from .data import (
    read_masks as read_masks,
)
from .data import (
    tiny_imagenet_lt as tiny_imagenet_lt,
)
from .data import (
    token_counts as token_counts,
)
from .groups import ClassGroups as ClassGroups
from .losses import (
    BKDLoss as BKDLoss,
)
from .losses import (
    CATKDLoss as CATKDLoss,
)
from .losses import (
    CrossEntropyLoss as CrossEntropyLoss,
)
from .losses import (
    CWDLoss as CWDLoss,
)
from .losses import (
    DistillationLoss as DistillationLoss,
)
from .losses import (
    DISTLoss as DISTLoss,
)
from .losses import (
    DKDLoss as DKDLoss,
)
from .losses import (
    GKLLoss as GKLLoss,
)
from .losses import (
    IFVDLoss as IFVDLoss,
)
from .losses import (
    KDLoss as KDLoss,
)
from .losses import (
    KLDecomposition as KLDecomposition,
)
from .losses import (
    LogitLoss as LogitLoss,
)
from .losses import (
    LTKDLoss as LTKDLoss,
)
from .losses import (
    ReviewKDLoss as ReviewKDLoss,
)
from .losses import (
    Schedule as Schedule,
)
from .losses import (
    SumLoss as SumLoss,
)
from .losses import (
    WTTMLoss as WTTMLoss,
)
from .losses import (
    balanced_softmax_loss as balanced_softmax_loss,
)
from .losses import (
    bkd_loss as bkd_loss,
)
from .losses import (
    channel_wise_loss as channel_wise_loss,
)
from .losses import (
    class_attention_loss as class_attention_loss,
)
from .losses import (
    class_balanced_loss as class_balanced_loss,
)
from .losses import (
    class_balanced_weights as class_balanced_weights,
)
from .losses import (
    create_loss as create_loss,
)
from .losses import (
    dist_loss as dist_loss,
)
from .losses import (
    dkd_loss as dkd_loss,
)
from .losses import (
    gkl_loss as gkl_loss,
)
from .losses import (
    hierarchical_context_loss as hierarchical_context_loss,
)
from .losses import (
    intra_class_variation_loss as intra_class_variation_loss,
)
from .losses import (
    kd_loss as kd_loss,
)
from .losses import (
    kl_decomposition as kl_decomposition,
)
from .losses import (
    ldam_loss as ldam_loss,
)
from .losses import (
    log_class_prior as log_class_prior,
)
from .losses import (
    logit_adjusted_loss as logit_adjusted_loss,
)
from .losses import (
    ltkd_loss as ltkd_loss,
)
from .losses import (
    standardize_logits as standardize_logits,
)
from .losses import (
    wttm_loss as wttm_loss,
)
from .metrics import group_accuracy as group_accuracy
from .metrics import group_perplexity as group_perplexity
from .metrics import mean_iou as mean_iou
from .models import create_model as create_model
from .teacher import (
    CachedTeacherDataset as CachedTeacherDataset,
)
from .teacher import (
    EMATeacher as EMATeacher,
)
from .teacher import (
    TeacherCache as TeacherCache,
)
from .teacher import (
    TeacherEnsemble as TeacherEnsemble,
)
from .trainer import (
    DistillationTrainer as DistillationTrainer,
)
from .trainer import (
    DistillationTrainingArguments as DistillationTrainingArguments,
)
from .workflow.adjust import adjust as adjust
from .workflow.diagnose import diagnose as diagnose
from .workflow.distill import distill as distill
from .workflow.evaluate import evaluate as evaluate
from .workflow.train_teacher import train_teacher as train_teacher

__version__: str
