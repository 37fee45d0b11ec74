#!/bin/sh
# How the clips were made: excerpts of the training music, in every codec that debut reads.
#
#   sh audio-samples/make.sh MUSIC [PACK]
#
# MUSIC is the --out folder of models/game-music/make/fetch_audio.py, PACK the folder of excerpts with the
# three clips that the model was not trained on (left as they are without it). Needs ffmpeg and ffprobe.
set -eu
music=$1
pack=${2:-}
here=$(dirname "$0")

# clip OUT SOURCE SECONDS TITLE ARTIST ALBUM [ffmpeg options]: the middle of the source, as debut hears it.
clip() {
    out=$here/$1 source=$2 seconds=$3 title=$4 artist=$5 album=$6
    shift 6
    whole=$(ffprobe -v error -show_entries format=duration -of csv=p=0 "$source")
    start=$(awk "BEGIN { s = ($whole - $seconds) / 2; print (s > 0 ? s : 0) }")
    mkdir -p "$(dirname "$out")"
    # -vn: no cover pictures; bitexact: no encoder date, so that the same source gives the same file.
    ffmpeg -v error -nostdin -y -ss "$start" -t "$seconds" -i "$source" -map 0:a -map_metadata -1 -vn \
        -fflags +bitexact -flags:a +bitexact "$@" \
        -metadata title="$title" -metadata artist="$artist" -metadata album="$album" "$out"
}
m=$music/audio

# Space music.
clip naev/ambient1.opus        $m/naev/ambient1.ogg        30 "Ambient 1"   "Nikola Whallon" Naev -c:a libopus -b:a 80k
clip naev/ambient2.m4a         $m/naev/ambient2.ogg        30 "Ambient 2"   "Nikola Whallon" Naev -c:a aac -b:a 80k
clip naev/ambient3.ogg         $m/naev/ambient3.ogg        30 "Ambient 3"   "Nikola Whallon" Naev -c:a libvorbis -q:a 2
clip naev/ambiphonic.mp3       $m/naev/ambiphonic.ogg      30 "Ambiphonic"  Zeropage         Naev -c:a libmp3lame -q:a 9
clip naev/dvaered2.flac        $m/naev/dvaered2.ogg        10 "Dvaered Journey" Askyel       Naev -c:a flac -sample_fmt s16 -ar 32000 -ac 1
# Kart racing: cheerful.
clip supertuxkart/bay.mp3      $m/supertuxkart/bay.ogg     30 "Bay"         0zone0ne         SuperTuxKart -c:a libmp3lame -b:a 96k
clip supertuxkart/egypt.ogg    $m/supertuxkart/egypt.ogg   30 "Egypt"       0zone0ne         SuperTuxKart -c:a libvorbis -q:a 2
clip supertuxkart/garden.m4a   $m/supertuxkart/garden.ogg  30 "Zen Garden"  DJHelium         SuperTuxKart -c:a aac -b:a 80k
clip supertuxkart/kart_grand_prix.opus $m/supertuxkart/kart_grand_prix.ogg 30 "Kart Grand Prix" Weirwood SuperTuxKart -c:a libopus -b:a 80k
clip supertuxkart/valley.mp3   $m/supertuxkart/valley.ogg  30 "Valley"      DJHelium         SuperTuxKart -c:a libmp3lame -q:a 8
# Guitars.
clip marsshooter/01_ezer_ev.ogg $m/marsshooter/01_ezer_ev.ogg 30 "Ezer Év" "Obsidian Shell"   "M.A.R.S." -c:a libvorbis -q:a 2
clip marsshooter/09_wings_of_cruelty.mp3 $m/marsshooter/09_wings_of_cruelty.ogg 30 "Wings of Cruelty" "Obsidian Shell" "M.A.R.S." -c:a libmp3lame -b:a 96k
clip marsshooter/07_vermocsar.m4a $m/marsshooter/07_vermocsar.ogg  8 "Vérmocsár" "Obsidian Shell" "M.A.R.S." -c:a alac -sample_fmt s16p -ar 32000 -ac 1
# Orchestras and lutes.
clip 0ad/celtica.mp3           $m/0ad/celtica.ogg          30 "Celtica"     "Wildfire Games" "0 A.D." -c:a libmp3lame -b:a 64k -ac 1
clip 0ad/harvest_festival.aiff $m/0ad/harvest_festival.ogg 10 "Harvest Festival" "Wildfire Games" "0 A.D." -c:a pcm_s16be -ar 16000 -ac 1 -write_id3v2 1
clip 0ad/mountain_idyll.opus   $m/0ad/mountain_idyll.ogg   30 "Mountain Idyll" "Wildfire Games" "0 A.D." -c:a libopus -b:a 64k
clip flare_game/town_theme.caf $m/flare_game/town_theme.ogg  9 "Town Theme" "Clint Bellanger and others" Flare -c:a pcm_s16le -ar 22050 -ac 1
clip flare_game/dungeon_theme.wav $m/flare_game/dungeon_theme.ogg 6 "Dungeon Theme" "Clint Bellanger and others" Flare -c:a pcm_s24le -ar 24000 -ac 1
# Electronic.
clip redeclipse/track_01.wav   $m/redeclipse/track_01.ogg   8 "Track 01"    "Derek Stegall"  "Red Eclipse" -c:a pcm_s16le -ar 22050 -ac 1
clip redeclipse/tonatiuh.ogg   $m/redeclipse/tonatiuh.ogg  12 "Galactic Temple" yd           "Red Eclipse" \
    -af "pan=5.1|FL=0.7*FL|FR=0.7*FR|FC=0.35*FL+0.35*FR|LFE=0.2*FL+0.2*FR|BL=0.4*FL|BR=0.4*FR" -c:a libvorbis -q:a 1
clip freecol/musicbox.wav      $m/freecol/musicbox.ogg     20 "Musicbox"    "Stian Grenborgen" FreeCol -c:a pcm_s16le -ar 8000 -ac 1
# "Just uploaded": the model has never heard them.
if [ -n "$pack" ]; then
    clip new/vibe_ace.ogg      "$pack/audio/real/librosa_data/vibe_ace.ogg"   30 "Vibe Ace" "Kevin MacLeod" "" -c:a libvorbis -q:a 2
    clip new/sugar_plum.opus   "$pack/audio/real/librosa_data/sugar_plum.ogg" 30 "Dance of the Sugar Plum Fairy" "Kevin MacLeod" "" -c:a libopus -b:a 80k -ar 48000
    clip new/hungarian_dance_5.m4a "$pack/audio/real/librosa_data/hungarian_dance_5.ogg" 30 "Hungarian Dance 5" "US Army Strings" "" -c:a aac -b:a 80k -ar 48000
fi
du -sh "$here"
