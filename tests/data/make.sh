#!/bin/sh
# Makes the tiny audio files of this folder from generated signals. Needs ffmpeg with libmp3lame, libvorbis and libopus
# (ffmpeg 5.1 made the committed ones). From the repository root: sh tests/data/make.sh
#
# steps*: 500 Hz for half a second, 1500 Hz for the next, 3000 Hz for the third.
# sweep*: a tone that rises from 200 Hz by 400 Hz each second, so that no two moments sound alike.
# clicks*.mp3: bursts of noise up to the highest frequencies, others on the left than on the right, above a tone.
# clicks.ogg: five clicks a second on the left, bursts of 6 kHz on the right, which Vorbis codes in blocks of both sizes.
# Five of them carry the tags that tests/audio.rs looks for.
# Steps and sweeps are at half of full scale; lossless ones at 1/32, where few bits suffice. A pair has the one on its
# left, the other on its right; in FLAC it has 24 bits, of which 8 are wasted.
set -eu
cd "$(dirname "$0")"

STEPS='0.5*sin(2*PI*t*if(lt(t\,0.5)\,500\,if(lt(t\,1)\,1500\,3000)))'
SWEEP='0.5*sin(2*PI*(200*t+200*t*t))'
CLICKS='0.8*lt(mod(t\,0.2)\,0.0003)+0.05*sin(2*PI*440*t)'
BURSTS='0.3*sin(2*PI*6000*t)*lt(mod(t\,0.7)\,0.1)'
SOFT_STEPS="$STEPS/16"
SOFT_SWEEP="$SWEEP/16"

# Standard tags, the recording's ids under the names that Picard gives them in each format.
TAGS='-metadata title=Drei_Töne -metadata artist=Signal -metadata album=Generated -metadata date=2026-11-21 -metadata genre=Test'
COMMENTS="$TAGS -metadata ISRC=DEZ652600001 -metadata MUSICBRAINZ_TRACKID=11111111-2222-4333-8444-555555555555"

# make EXPRESSION SECONDS RATE CHANNELS OUTPUT ENCODER-OPTIONS...
make() {
    expression=$1 seconds=$2 rate=$3 channels=$4 output=$5
    shift 5
    case $channels in
        1) all=$expression layout=mono ;;
        2) all="$expression|${right:-$expression}" layout=stereo ;;
        pair) all=$expression layout=stereo ;;
        6) all="$expression|$expression|$expression|$expression|$expression|$expression" layout=5.1 ;;
    esac
    ffmpeg -v error -y -f lavfi -i "aevalsrc=$all:s=$rate:d=$seconds:c=$layout" -fflags +bitexact -flags:a +bitexact \
        -map_metadata -1 "$@" "$output"
}

make "$STEPS" 1.5 44100 2 steps-cbr.mp3 -c:a libmp3lame -b:a 48k $TAGS -metadata TSRC=DEZ652600001
make "$STEPS" 1.5 22050 1 steps-vbr.mp3 -c:a libmp3lame -q:a 7
make "$STEPS" 1.5 32000 1 steps-no-xing.mp3 -c:a libmp3lame -q:a 7 -write_xing 0 -id3v2_version 0
make "$STEPS" 1.5 8000 1 steps-8k.mp3 -c:a libmp3lame -b:a 16k
make "$STEPS" 1.5 44100 2 steps.m4a -c:a aac -b:a 32k $TAGS
make "$STEPS" 1.5 96000 1 steps-96k.m4a -c:a aac -b:a 32k
make "$STEPS" 1.5 22050 1 steps.aac -c:a aac -b:a 16k
make "$STEPS" 1.5 44100 2 steps.ogg -c:a libvorbis -q:a 0 $COMMENTS
make "$STEPS" 1.5 11025 6 steps-5.1.ogg -c:a libvorbis -q:a 0
right=$BURSTS
make "$CLICKS" 4 44100 2 clicks.ogg -c:a libvorbis -q:a 4
right=
make "$STEPS" 1.5 48000 2 steps.opus -c:a libopus -b:a 24k $COMMENTS
make "$STEPS" 1.5 16000 1 steps-mono.opus -c:a libopus -b:a 12k -application voip
make "$STEPS" 1.5 48000 6 steps-5.1.opus -c:a libopus -b:a 128k -vbr off -mapping_family 1
make "$SOFT_STEPS" 1.5 8000 2 steps.flac -c:a flac -compression_level 12 $COMMENTS
make "$SOFT_STEPS" 1.5 8000 1 steps-24.flac -c:a flac -compression_level 12 -sample_fmt s32 -bits_per_raw_sample 24
make "$SOFT_STEPS" 1.5 8000 6 steps-5.1.flac -c:a flac -compression_level 12 -sample_fmt s16
make "$SOFT_STEPS|$SOFT_SWEEP" 1.5 8000 pair pair-24.flac -af aformat=s16 -c:a flac -compression_level 12 \
    -ch_mode mid_side -sample_fmt s32 -bits_per_raw_sample 24
make "$SOFT_STEPS" 1.5 8000 1 steps-alac.m4a -c:a alac
make "$SOFT_STEPS" 1.5 8000 1 steps-alac.caf -c:a alac
make "$SOFT_STEPS" 1.5 8000 1 steps.aiff -c:a pcm_s16be
make "$SOFT_STEPS" 1.5 8000 1 steps.caf -c:a pcm_s16be

make "$SWEEP" 5 16000 1 sweep.mp3 -c:a libmp3lame -b:a 24k
make "$SWEEP" 5 16000 1 sweep-vbr-no-xing.mp3 -c:a libmp3lame -q:a 9 -write_xing 0 -id3v2_version 0
make "$SWEEP" 5 16000 1 sweep.ogg -c:a libvorbis -q:a 0
make "$SWEEP" 5 16000 1 sweep.opus -c:a libopus -b:a 16k -vbr off
make "$SWEEP" 5 16000 1 sweep.m4a -c:a aac -b:a 16k
make "$SWEEP" 5 16000 1 sweep-faststart.m4a -c:a aac -b:a 16k -movflags +faststart
make "$SOFT_SWEEP" 2.5 8000 1 sweep.flac -c:a flac -compression_level 12
make "$SOFT_SWEEP" 2.5 8000 1 sweep-alac.m4a -c:a alac

# For the AAC decoder: bursts that differ between the channels, for short windows on one side or both, over a tone that is
# shared; hiss that the encoder replaces by noise (or may not, where the decoded samples are compared); and 5.1 whose channels have
# the steps at 1, 0.8, 0.6, (low frequencies) 1, 0.4 and 0.2 of their height.
BURSTS='0.3*sin(2*PI*700*t)+0.6*(random(0)-0.5)*lt(mod(t\,0.21)\,0.004)+0.02*(random(1)-0.5)|0.2*sin(2*PI*700*t)+0.5*(random(2)-0.5)*lt(mod(t\,0.33)\,0.003)+0.05*(random(3)-0.5)'
bursts() {
    rate=$1 output=$2
    shift 2
    ffmpeg -v error -y -f lavfi -i "aevalsrc=$BURSTS:s=$rate:d=1.5:c=stereo" -fflags +bitexact -flags:a +bitexact \
        -map_metadata -1 -c:a aac "$@" "$output"
}
bursts 32000 aac-bursts-32k.m4a -b:a 80k -aac_pns 0
bursts 44100 aac-bursts.m4a -b:a 96k -aac_pns 0
bursts 44100 aac-noise.m4a -b:a 96k
ffmpeg -v error -y -f lavfi -i "aevalsrc=$STEPS|0.8*$STEPS|0.6*$STEPS|$STEPS|0.4*$STEPS|0.2*$STEPS:s=24000:d=1.5:c=5.1" \
    -fflags +bitexact -flags:a +bitexact -map_metadata -1 -c:a aac -aac_coder fast -b:a 96k aac-5.1.m4a
CLICKS='0.6*exp(-40*mod(t\,0.21))*(2*random(0)-1)+0.1*sin(2*PI*3000*t)|0.6*exp(-60*mod(t+0.05\,0.17))*(2*random(1)-1)'
clicks() {
    rate=$1 output=$2
    shift 2
    ffmpeg -v error -y -f lavfi -i "aevalsrc=$CLICKS:s=$rate:d=1.5:c=stereo" -fflags +bitexact -flags:a +bitexact \
        -map_metadata -1 "$@" "$output"
}
clicks 44100 clicks-joint.mp3 -c:a libmp3lame -b:a 128k
clicks 44100 clicks-stereo.mp3 -c:a libmp3lame -b:a 160k -joint_stereo 0
clicks 48000 clicks-48k.mp3 -c:a libmp3lame -q:a 4
