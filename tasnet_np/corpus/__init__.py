"""From folders of recordings to mixtures: layouts, the manifest, clips in memory, mixing at a known SNR."""
