"""What opensr-srgan 0.5.1 ships, as its files have it: facts, by key."""

CONFIG_20M = {
    "Data": {"train_batch_size": 24, "val_batch_size": 8, "num_workers": 8, "prefetch_factor": 4,
             "dataset_type": "S2_6b", "normalization": "normalise_10k"},
    "Model": {"in_bands": 6, "continue_training": False, "load_checkpoint": False},
    "Training": {
        "device": "cuda", "gpus": [2, 3], "max_epochs": 9999, "val_check_interval": 1.0, "limit_val_batches": 250,
        "pretrain_g_only": True, "g_pretrain_steps": 15000, "adv_loss_ramp_steps": 2500, "label_smoothing": True,
        "EMA": {"enabled": False, "decay": 0.999, "update_after_step": 0, "use_num_updates": True},
        "Losses": {
            "adv_loss_type": "bce", "relativistic_average_d": False, "adv_loss_beta": 1e-3,
            "adv_loss_schedule": "cosine", "r1_gamma": 0.0, "l1_weight": 1.0, "sam_weight": 0.05,
            "perceptual_weight": 0.1, "perceptual_metric": "vgg", "tv_weight": 0.0, "max_val": 1.0, "ssim_win": 11,
        },
    },
    "Generator": {"model_type": "SRResNet", "block_type": "rcab", "large_kernel_size": 9, "small_kernel_size": 3,
                  "n_channels": 96, "n_blocks": 32, "scaling_factor": 8, "growth_channels": 32, "res_scale": 0.2},
    "Discriminator": {"model_type": "standard", "n_blocks": 8, "use_spectral_norm": False, "base_channels": 64,
                      "linear_size": 1024},
    "Optimizers": {"optim_g_lr": 1e-4, "optim_d_lr": 1e-6, "gradient_clip_val": 1.0, "betas": [0.0, 0.99],
                   "eps": 1.0e-7, "weight_decay_g": 0.0, "weight_decay_d": 0.0},
    "Schedulers": {"g_warmup_steps": 2500, "g_warmup_type": "cosine", "metric_g": "val_metrics/l1",
                   "metric_d": "validation/DISC_adversarial_loss", "patience_g": 50, "patience_d": 50,
                   "factor_g": 0.5, "factor_d": 0.5},
    "Logging": {"num_val_images": 5, "wandb": {"enabled": True, "entity": "opensr", "project": "SRGAN_20m"}},
}  # fmt: skip
